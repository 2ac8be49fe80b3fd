//! What the machine can do: reading memory, and multiplying, on as many threads as the kernels use.

use std::hint::black_box;
use std::sync::OnceLock;
use std::thread;
use std::time::Instant;

use mlx_cpu::{Level, Memory};
use mlx_rs::Dtype;

/// What bounds a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Peak {
    /// Reading memory.
    Read,
    /// Products and sums of float32.
    Float32,
    /// Pairs of bfloat16.
    Bfloat16,
    /// Tiles of bfloat16.
    Tiles,
}

impl Peak {
    /// The bound of products of this type at the current level.
    pub(crate) fn products(dtype: Dtype) -> Self {
        match (dtype, Level::current().unwrap()) {
            (Dtype::Bfloat16, Level::Amx) => Self::Tiles,
            (Dtype::Bfloat16, Level::Avx512Bf16) => Self::Bfloat16,
            _ => Self::Float32,
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        if matches!(self, Self::Read) { "GB/s" } else { "GFLOP/s" }
    }

    /// Bytes or operations per second.
    pub(crate) fn measure(self) -> f64 {
        static MEMORY: OnceLock<Memory> = OnceLock::new();
        if matches!(self, Self::Read) {
            return MEMORY.get_or_init(Memory::new).read();
        }
        let start = Instant::now();
        let work: f64 = thread::scope(|scope| {
            let running: Vec<_> = (0..mlx_cpu::threads()).map(|_| scope.spawn(move || self.work())).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        work / start.elapsed().as_secs_f64()
    }

    /// Operations of one thread.
    fn work(self) -> f64 {
        const TIMES: usize = 3_000_000;
        // SAFETY: levels are chosen by what the CPU has.
        #[cfg(target_arch = "x86_64")]
        return unsafe {
            match (self, Level::current().unwrap()) {
                (Self::Tiles, _) => x86::tiles(TIMES),
                (Self::Bfloat16, _) => x86::bfloat16(TIMES),
                (_, Level::Portable) => portable(TIMES),
                (_, Level::Avx2) => x86::avx2(TIMES),
                _ => x86::avx512(TIMES),
            }
        };
        #[cfg(not(target_arch = "x86_64"))]
        return portable(TIMES);
    }
}

fn portable(times: usize) -> f64 {
    let (mut sums, a, b) = ([[0.0_f32; 8]; 8], black_box([1.0_f32; 8]), black_box([1e-9_f32; 8]));
    for _ in 0..times {
        for sum in &mut sums {
            for lane in 0..8 {
                sum[lane] += a[lane] * b[lane];
            }
        }
    }
    black_box(sums);
    (times * 8 * 8 * 2) as f64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    macro_rules! twelve {
        ($name:ident, $instruction:literal, $prefix:literal, $flops:literal) => {
            /// # Safety
            /// The CPU has the instruction.
            pub(crate) unsafe fn $name(times: usize) -> f64 {
                // SAFETY: registers only.
                unsafe {
                    asm!(
                        "2:",
                        concat!($instruction, " ", $prefix, "0, ", $prefix, "14, ", $prefix, "15"),
                        concat!($instruction, " ", $prefix, "1, ", $prefix, "14, ", $prefix, "15"),
                        concat!($instruction, " ", $prefix, "2, ", $prefix, "14, ", $prefix, "15"),
                        concat!($instruction, " ", $prefix, "3, ", $prefix, "14, ", $prefix, "15"),
                        concat!($instruction, " ", $prefix, "4, ", $prefix, "14, ", $prefix, "15"),
                        concat!($instruction, " ", $prefix, "5, ", $prefix, "14, ", $prefix, "15"),
                        concat!($instruction, " ", $prefix, "6, ", $prefix, "14, ", $prefix, "15"),
                        concat!($instruction, " ", $prefix, "7, ", $prefix, "14, ", $prefix, "15"),
                        concat!($instruction, " ", $prefix, "8, ", $prefix, "14, ", $prefix, "15"),
                        concat!($instruction, " ", $prefix, "9, ", $prefix, "14, ", $prefix, "15"),
                        concat!($instruction, " ", $prefix, "10, ", $prefix, "14, ", $prefix, "15"),
                        concat!($instruction, " ", $prefix, "11, ", $prefix, "14, ", $prefix, "15"),
                        "dec {times}",
                        "jnz 2b",
                        times = inout(reg) times => _,
                        out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                        out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    );
                }
                (times * 12 * $flops) as f64
            }
        };
    }

    twelve!(avx2, "vfmadd231ps", "ymm", 16);
    twelve!(avx512, "vfmadd231ps", "zmm", 32);
    twelve!(bfloat16, "vdpbf16ps", "zmm", 64);

    /// # Safety
    /// The CPU has AMX with bfloat16, and the process may use it.
    pub(crate) unsafe fn tiles(times: usize) -> f64 {
        #[repr(align(64))]
        struct Config([u8; 64]);
        let mut config = Config([0; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64;
            config.0[48 + tile] = 16;
        }
        // SAFETY: a valid configuration, and registers only.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {times}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &config,
                times = inout(reg) times / 16 => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            );
        }
        (times / 16 * 4 * 2 * 16 * 16 * 32) as f64
    }
}
