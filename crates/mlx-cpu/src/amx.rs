//! Products of bfloat16 tiles with AMX, in assembly: Rust has no stable intrinsics for it.

/// Rows of a left block: two tiles.
pub(crate) const ROWS: usize = 32;
/// Words of 32 bits in a row of a tile.
pub(crate) const WORDS: usize = 16;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn multiply(_: &[u32], _: usize, _: &[u32], _: &mut [f32], _: bool) {
    unreachable!("no AMX here")
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{is_available, multiply};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;

    use super::{ROWS, WORDS};

    /// Whether CPU and operating system let this process use tiles of bfloat16.
    pub(crate) fn is_available() -> bool {
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        let features = __cpuid_count(7, 0).edx;
        features & AMX_BF16 > 0 && features & AMX_TILE > 0 && permitted()
    }

    /// Linux saves the tiles of processes that asked for it.
    #[cfg(target_os = "linux")]
    fn permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_ulong = 18;
        // SAFETY: sets a flag of this process; no pointers.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }

    #[cfg(not(target_os = "linux"))]
    fn permitted() -> bool {
        false
    }

    /// The operand of ldtilecfg (Intel's manual, volume 1, section 18.3).
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    impl Config {
        /// Tiles 0 to 3 are sums, two by two; 4 and 5 the left operand, 6 and 7 the right one.
        fn new(upper: usize, lower: usize) -> Self {
            let mut rows = [0; 16];
            for (tile, n) in [upper, upper, lower, lower, upper, lower, WORDS, WORDS].into_iter().enumerate() {
                rows[tile] = n as u8;
            }
            let row_bytes = rows.map(|n| if n > 0 { 64 } else { 0 });
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
        }
    }

    /// `tile = left · panel`, or `tile += left · panel` if `add`, in words that are pairs of bfloat16: `left`
    /// `[words / 16, rows, 16]` of at most 32 rows, `panel` `[words, 32]`, `tile` `[rows, 32]`.
    pub(crate) fn multiply(left: &[u32], rows: usize, panel: &[u32], tile: &mut [f32], add: bool) {
        const WIDTH: usize = 32;
        let words = left.len() / rows;
        assert!(rows <= ROWS && words.is_multiple_of(WORDS));
        assert!(left.len() == rows * words && panel.len() >= words * WIDTH && tile.len() >= rows * WIDTH);
        let (upper, lower) = (rows.min(16), rows.saturating_sub(16));
        let config = Config::new(upper, lower);
        if !add {
            tile.fill(0.0);
        }
        if words == 0 {
            return;
        }
        let row_bytes = 4 * WORDS;
        // Of what is not there, the addresses are those of what is; they are not used.
        let below = if lower > 0 { 16 } else { 0 };
        let (left, tile) = (left.as_ptr(), tile.as_mut_ptr());
        macro_rules! run {
            ($load:literal, $step:literal, $store:literal) => {
                // SAFETY: the configuration describes tiles that lie inside the slices, whose lengths were compared
                // above; every tile register is declared as used, and released in the end.
                unsafe {
                    asm!(
                        "ldtilecfg [{config}]",
                        "tileloadd tmm0, [{tile} + {right_stride}]",
                        "tileloadd tmm1, [{tile} + {right_stride} + 64]",
                        $load,
                        "2:",
                        "tileloadd tmm4, [{left} + {row_bytes}]",
                        "tileloadd tmm6, [{panel} + {right_stride}]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tileloadd tmm7, [{panel} + {right_stride} + 64]",
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        $step,
                        "add {left}, {left_step}",
                        "add {left_below}, {left_step}",
                        "add {panel}, 2048",
                        "dec {steps}",
                        "jnz 2b",
                        "tilestored [{tile} + {right_stride}], tmm0",
                        "tilestored [{tile} + {right_stride} + 64], tmm1",
                        $store,
                        "tilerelease",
                        config = in(reg) &config,
                        tile = in(reg) tile,
                        tile_below = in(reg) tile.add(below * WIDTH),
                        left = inout(reg) left => _,
                        left_below = inout(reg) left.add(below * WORDS) => _,
                        left_step = in(reg) rows * row_bytes,
                        row_bytes = in(reg) row_bytes,
                        panel = inout(reg) panel.as_ptr() => _,
                        right_stride = in(reg) 4 * WIDTH,
                        steps = inout(reg) words / WORDS => _,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    );
                }
            };
        }
        if lower == 0 {
            run!("/* {tile_below} */", "/* {left_below} */", "/* one tile high */");
        } else {
            run!(
                "tileloadd tmm2, [{tile_below} + {right_stride}]
                 tileloadd tmm3, [{tile_below} + {right_stride} + 64]",
                "tileloadd tmm5, [{left_below} + {row_bytes}]
                 tdpbf16ps tmm2, tmm5, tmm6
                 tdpbf16ps tmm3, tmm5, tmm7",
                "tilestored [{tile_below} + {right_stride}], tmm2
                 tilestored [{tile_below} + {right_stride} + 64], tmm3"
            );
        }
    }
}
