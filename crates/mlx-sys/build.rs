//! Brings MLX to this machine: libmlx and its headers from the wheels that MLX publishes, mlx-c's sources from the
//! registry's own mlx-sys package. Only a C++ compiler, cargo and python3 with pip are needed.
//!
//! `MLX_DIR` names a folder with `lib/libmlx.{so,dylib}` and `include/` to use instead of a wheel.
//! Dependents read the library's folder as `DEP_MLX_LIB` and set it as their rpath.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const MLX_VERSION: &str = "0.32.2";

/// A published wheel of MLX: what pip needs to fetch exactly this file.
struct Wheel {
    package: &'static str,
    platform: &'static str,
    sha256: &'static str,
}

fn wheel(os: &str, arch: &str) -> Option<Wheel> {
    let (package, platform, sha256) = match (os, arch) {
        ("linux", "x86_64") => {
            ("mlx-cpu", "manylinux_2_35_x86_64", "fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878")
        }
        ("linux", "aarch64") => {
            ("mlx-cpu", "manylinux_2_35_aarch64", "d0f94625588b51a878786dd51cec5617894ce586cf3c94645ce1b64e24c27c0b")
        }
        ("macos", "aarch64") => {
            ("mlx-metal", "macosx_14_0_arm64", "3825fff379dbc107dd3413e564a06caeaa24819910ec49c0439e454c06a1b9b8")
        }
        _ => return None,
    };
    Some(Wheel { package, platform, sha256 })
}

fn main() {
    for variable in ["MLX_DIR", "HOME", "PYTHON"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    for file in ["build.rs", "src/format.h", "src/half.cpp", "mlx-c/Cargo.lock"] {
        println!("cargo::rerun-if-changed={file}");
    }

    let mlx = match env::var_os("MLX_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => installed_wheel(),
    };
    let lib = mlx.join("lib");
    let name = if target("OS") == "macos" { "libmlx.dylib" } else { "libmlx.so" };
    if !lib.join(name).is_file() || !mlx.join("include/mlx/mlx.h").is_file() {
        fail(&format!(
            "{} holds no MLX: lib/{name} and include/mlx/mlx.h are expected there. \
             Set MLX_DIR to a folder that has them, or unset it to use the published wheel",
            mlx.display()
        ));
    }

    compile_mlx_c(&mlx_c_sources(), &mlx.join("include"));
    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::rustc-link-lib=dylib=mlx");
    println!("cargo::metadata=lib={}", lib.display());
    println!("cargo::metadata=include={}", mlx.join("include").display());
    // A library that was deleted since the last build is fetched again.
    println!("cargo::rerun-if-changed={}", lib.join(name).display());
}

/// The unpacked wheel's `mlx` folder, below `~/.mlx` so that it outlives `target/`: installed binaries load libmlx
/// from there.
fn installed_wheel() -> PathBuf {
    let (os, arch) = (target("OS"), target("ARCH"));
    let wheel = wheel(&os, &arch).unwrap_or_else(|| {
        fail(&format!(
            "MLX {MLX_VERSION} publishes no wheel for {os} on {arch}. Build MLX yourself and set MLX_DIR to its folder"
        ))
    });
    let home = env::var_os("HOME").unwrap_or_else(|| {
        fail("HOME is not set, so there is no ~/.mlx to keep MLX in. Set HOME, or MLX_DIR to a folder with MLX")
    });
    let folder = Path::new(&home).join(".mlx").join(format!("{}-{MLX_VERSION}-{arch}", wheel.package));
    // The folder appears in one step; what is not whole was tampered with.
    if !folder.join("mlx/include/mlx/mlx.h").is_file() {
        let _ = fs::remove_dir_all(&folder);
        install(&wheel, &folder);
    }
    folder.join("mlx")
}

/// Downloads the wheel, checks its hash, and puts its contents at `folder` in one step.
fn install(wheel: &Wheel, folder: &Path) {
    let python = env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let parent = folder.parent().expect("the folder lies below ~/.mlx");
    let work = parent.join(format!(".unpacking-{}", std::process::id()));
    let requirements = work.join("requirements.txt");
    let pinned = format!("{}=={MLX_VERSION} --hash=sha256:{}\n", wheel.package, wheel.sha256);
    fs::create_dir_all(&work)
        .and_then(|()| fs::write(&requirements, pinned))
        .unwrap_or_else(|e| fail(&format!("cannot write below {}: {e}", parent.display())));

    let what = format!("cannot get the wheel {}=={MLX_VERSION}", wheel.package);
    run(
        Command::new(&python)
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--only-binary", ":all:", "--require-hashes", "--platform", wheel.platform, "--dest"])
            .arg(&work)
            .arg("--requirement")
            .arg(&requirements),
        &format!(
            "{what}: `{python} -m pip` must work and reach a package index \
             (Debian: apt-get install python3-pip; PYTHON names another interpreter). \
             Or set MLX_DIR to a folder with MLX"
        ),
    );
    let file = format!("{}-{MLX_VERSION}-py3-none-{}.whl", wheel.package.replace('-', "_"), wheel.platform);
    let contents = work.join("contents");
    run(
        Command::new(&python).args(["-m", "zipfile", "-e"]).arg(work.join(file)).arg(&contents),
        "cannot unpack the wheel of MLX; is the disk full?",
    );
    let moved = fs::rename(&contents, folder);
    let _ = fs::remove_dir_all(&work);
    // Another build may have been quicker; then its folder is as good.
    if let Err(e) = moved
        && !folder.is_dir()
    {
        fail(&format!("cannot put MLX at {}: {e}", folder.display()));
    }
}

/// The folder of mlx-c inside the registry's mlx-sys package. Cargo fetches that package for a manifest of its own,
/// outside this workspace, where the name is not replaced by this crate.
fn mlx_c_sources() -> PathBuf {
    let cargo = env::var_os("CARGO").expect("cargo sets CARGO");
    let manifest = Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("mlx-c/Cargo.toml");
    let json = run(
        Command::new(cargo).args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]).arg(manifest),
        "cannot fetch the registry's mlx-sys package, which carries mlx-c's sources; is the registry reachable?",
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&json).unwrap_or_else(|e| fail(&format!("cannot read what cargo metadata says: {e}")));
    let manifest = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|package| package["name"] == "mlx-sys"))
        .and_then(|package| package["manifest_path"].as_str())
        .unwrap_or_else(|| fail("cargo metadata does not name the mlx-sys package"));
    Path::new(manifest).with_file_name("src").join("mlx-c")
}

fn compile_mlx_c(mlx_c: &Path, include: &Path) {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .opt_level(2)
        .debug(false)
        .warnings(false)
        .include(mlx_c)
        .include(include)
        .flag("-include")
        .flag("src/format.h");
    if let Err(e) = build.try_get_compiler() {
        fail(&format!("a C++20 compiler is needed (Debian: apt-get install g++; macOS: xcode-select --install): {e}"));
    }
    let mut sources: Vec<PathBuf> = fs::read_dir(mlx_c.join("mlx/c"))
        .unwrap_or_else(|e| fail(&format!("cannot list mlx-c's sources in {}: {e}", mlx_c.display())))
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cpp"))
        .collect();
    sources.sort();
    if target("ARCH") != "aarch64" {
        sources.push("src/half.cpp".into());
    }
    if let Err(e) = build.files(sources).try_compile("mlxc") {
        fail(&format!(
            "cannot compile mlx-c; a compiler with C++20 is needed \
             (GCC 11, Clang 14 or newer; Debian: apt-get install g++; macOS: xcode-select --install): {e}"
        ));
    }
}

fn target(what: &str) -> String {
    env::var(format!("CARGO_CFG_TARGET_{what}")).expect("cargo sets it")
}

/// The command's stdout; on failure its stderr and `advice`.
fn run(command: &mut Command, advice: &str) -> Vec<u8> {
    let output = command
        .output()
        .unwrap_or_else(|e| fail(&format!("cannot start {}: {e}; {advice}", command.get_program().display())));
    if !output.status.success() {
        fail(&format!("{advice}\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    output.stdout
}

fn fail(message: &str) -> ! {
    eprintln!("\nphi3v: {message}\n");
    exit(1)
}
