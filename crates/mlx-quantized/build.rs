//! Tells the linker where this crate's tests find libmlx; see `crates/mlx-sys/build.rs`.

fn main() {
    let lib = std::env::var("DEP_MLX_LIB").expect("crates/mlx-sys publishes the folder of libmlx");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
}
