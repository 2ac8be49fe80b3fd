//! Compiles the shim against MLX's headers, which the mlx-sys crate fetched.

use std::env;
use std::process::exit;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/shim.cpp");
    let Some(include) = env::var_os("DEP_MLX_INCLUDE") else {
        eprintln!("the mlx-sys crate does not say where MLX's headers are");
        exit(1)
    };
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .opt_level(2)
        .debug(false)
        .warnings(false)
        .include(include)
        .file("src/shim.cpp")
        .compile("mlx_cpu_shim");
    // This crate's tests and benchmarks are programs that load libmlx.
    if let Ok(lib) = env::var("DEP_MLX_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
