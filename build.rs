//! Tells the linker where the running program finds libmlx; see `crates/mlx-sys/build.rs`.

fn main() {
    let lib = std::env::var("DEP_MLX_LIB").expect("crates/mlx-sys publishes the folder of libmlx");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
}
