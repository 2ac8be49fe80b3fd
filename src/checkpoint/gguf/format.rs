//! The number formats of GGUF's tensors: what files call them and how large their blocks are.

use anyhow::{Result, bail};

/// A number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// Number in the file, name, and values and bytes of one block.
const FORMATS: &[(Format, u32, &str, usize, usize)] = &[
    (Format::F32, 0, "F32", 1, 4),
    (Format::F16, 1, "F16", 1, 2),
    (Format::Bf16, 30, "BF16", 1, 2),
    (Format::Q4_0, 2, "Q4_0", 32, 18),
    (Format::Q4_1, 3, "Q4_1", 32, 20),
    (Format::Q5_0, 6, "Q5_0", 32, 22),
    (Format::Q5_1, 7, "Q5_1", 32, 24),
    (Format::Q8_0, 8, "Q8_0", 32, 34),
    (Format::Q2K, 10, "Q2_K", 256, 84),
    (Format::Q3K, 11, "Q3_K", 256, 110),
    (Format::Q4K, 12, "Q4_K", 256, 144),
    (Format::Q5K, 13, "Q5_K", 256, 176),
    (Format::Q6K, 14, "Q6_K", 256, 210),
];

/// Formats that exist but are not read, for the message.
const OTHERS: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

impl Format {
    /// The format that files call by this number.
    pub(super) fn numbered(number: u32) -> Result<Self> {
        if let Some(row) = FORMATS.iter().find(|row| row.1 == number) {
            return Ok(row.0);
        }
        let name = OTHERS.iter().find(|other| other.0 == number).map(|other| other.1);
        let known: Vec<&str> = FORMATS.iter().map(|row| row.2).collect();
        bail!(
            "it is of type {}, which is not supported; supported are {}",
            name.map_or_else(|| number.to_string(), str::to_owned),
            known.join(", ")
        )
    }

    fn row(self) -> &'static (Self, u32, &'static str, usize, usize) {
        FORMATS.iter().find(|row| row.0 == self).expect("every format has a row")
    }

    /// What files call it.
    pub(super) fn number(self) -> u32 {
        self.row().1
    }

    pub(super) fn name(self) -> &'static str {
        self.row().2
    }

    /// Values and bytes of one block.
    pub(super) fn block(self) -> (usize, usize) {
        (self.row().3, self.row().4)
    }
}

/// Calls `work` with parts of whole blocks of `from` and `to`, on all cores. A block has so many elements of each.
pub(super) fn on_all_cores<A: Sync, B: Send>(
    from: (&[A], usize),
    to: (&mut [B], usize),
    work: impl Fn(&[A], &mut [B]) + Sync,
) {
    // Less is done before another thread has started.
    const LEAST: usize = 1 << 16;
    let ((from, from_block), (to, to_block)) = (from, to);
    let blocks = (from.len() / from_block).div_ceil(mlx_cpu::threads()).max(LEAST / from_block.min(to_block));
    std::thread::scope(|scope| {
        let mut parts = from.chunks(blocks * from_block).zip(to.chunks_mut(blocks * to_block));
        let first = parts.next();
        for (from, to) in parts {
            let work = &work;
            scope.spawn(move || work(from, to));
        }
        if let Some((from, to)) = first {
            work(from, to);
        }
    });
}
