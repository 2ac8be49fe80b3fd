//! Compiles the shim against MLX's headers, which the mlx-sys crate fetched.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/shim.cpp");
    let published = |what: &str| env::var(what).expect("crates/mlx-sys publishes it");
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .opt_level(2)
        .debug(false)
        .warnings(false)
        .include(published("DEP_MLX_INCLUDE"))
        .file("src/shim.cpp")
        .compile("mlx_cpu_shim");
    // This crate's tests and benchmarks are programs that load libmlx.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", published("DEP_MLX_LIB"));
}
