//! Which instruction set the kernels use.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// An instruction set, from the least to the most capable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the compiler makes of plain Rust.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// With VNNI and BF16 as well.
    Avx512Bf16,
    /// With tiles (AMX) for bfloat16 as well.
    Amx,
}

/// The environment variable that forces a level.
pub const VARIABLE: &str = "PHI3V_CPU";

impl Level {
    /// All levels, rising.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
        }
    }

    /// Whether this CPU, under this operating system, has the instructions.
    #[inline]
    pub fn is_supported(self) -> bool {
        self <= best()
    }

    /// The level in use: the best one, or the one that the environment variable [`VARIABLE`] names.
    ///
    /// # Errors
    /// When the variable names no level, or one that this CPU does not support.
    pub fn current() -> Result<Self, String> {
        static CURRENT: OnceLock<Result<Level, String>> = OnceLock::new();
        CURRENT
            .get_or_init(|| {
                let Some(name) = std::env::var_os(VARIABLE) else { return Ok(best()) };
                let level: Self = name.to_string_lossy().parse()?;
                if !level.is_supported() {
                    return Err(format!("{VARIABLE}={level}: this CPU has at most {}", best()));
                }
                Ok(level)
            })
            .clone()
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|level| level.name() == name).ok_or_else(|| {
            format!("{VARIABLE}={name}: no such level; there are {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn best() -> Level {
    use std::arch::is_x86_feature_detected as has;
    static BEST: OnceLock<Level> = OnceLock::new();
    *BEST.get_or_init(|| {
        if !(has!("avx2") && has!("fma") && has!("f16c")) {
            Level::Portable
        } else if !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")) {
            Level::Avx2
        } else if !(has!("avx512vnni") && has!("avx512bf16")) {
            Level::Avx512
        } else if !(crate::amx::is_available() || cfg!(test) && emulate_amx()) {
            Level::Avx512Bf16
        } else {
            Level::Amx
        }
    })
}

/// Tests bring their own AMX where there is none.
#[cfg(target_arch = "x86_64")]
fn emulate_amx() -> bool {
    #[cfg(all(test, target_os = "linux"))]
    return crate::tests::amx::emulate();
    #[cfg(not(all(test, target_os = "linux")))]
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn best() -> Level {
    Level::Portable
}
