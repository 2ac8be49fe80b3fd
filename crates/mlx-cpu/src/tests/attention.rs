use mlx_quantized::{Mode, Packed};
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::IndexOp;
use mlx_rs::{Array, Dtype};

use super::*;
use crate::attention::{attention_at, cached_attention_at};
use crate::{Block, CachedRow, Mask, Weight};

const NO_SINKS: Mask = Mask::Window { sinks: 0, window: 17 };
const SINKS: Mask = Mask::Window { sinks: 3, window: 20 };
const MASKS: [Mask; 4] = [Mask::Full, Mask::Causal, NO_SINKS, SINKS];

/// The second one bends most scores; with Gemma's 50 few are far from straight.
const CAPS: [Option<f32>; 2] = [None, Some(0.8)];

/// Attention in float64.
fn exact(q: &Array, k: &Array, v: &Array, scores: Scores, mask: Mask) -> Vec<f64> {
    let (&[batch, heads, n, head_dim], &[_, kv_heads, total, _]) = (q.shape(), k.shape()) else { unreachable!() };
    let [batch, heads, n, head_dim, kv_heads, total] = [batch, heads, n, head_dim, kv_heads, total].map(|n| n as usize);
    let (q, k, v) = (to_f64(q), to_f64(k), to_f64(v));
    let score = |product: f64| {
        let scaled = f64::from(scores.scale) * product;
        scores.softcap.map(f64::from).map_or(scaled, |cap| cap * (scaled / cap).tanh())
    };
    let mut y = vec![0.0; q.len()];
    for b in 0..batch {
        for h in 0..heads {
            let kv = (b * kv_heads + h / (heads / kv_heads)) * total;
            for i in 0..n {
                let last = total - n + i;
                let seen = |j: usize| match mask {
                    Mask::Full => true,
                    Mask::Causal => j <= last,
                    Mask::Window { sinks, window } => j <= last && (j < sinks || j + window > last),
                };
                let q = &q[((b * heads + h) * n + i) * head_dim..][..head_dim];
                let scores: Vec<f64> = (0..total)
                    .map(|j| match seen(j) {
                        true => score(q.iter().zip(&k[(kv + j) * head_dim..]).map(|(q, k)| q * k).sum()),
                        false => f64::NEG_INFINITY,
                    })
                    .collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                let p: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
                let sum: f64 = p.iter().sum();
                let to = &mut y[((b * n + i) * heads + h) * head_dim..][..head_dim];
                for (j, p) in p.iter().enumerate().filter(|_| sum > 0.0) {
                    to.iter_mut().zip(&v[(kv + j) * head_dim..]).for_each(|(to, v)| *to += p / sum * v);
                }
            }
        }
    }
    y
}

#[test]
fn all_masks_and_sizes() {
    for level in levels() {
        for dtype in FLOATS {
            for (heads, kv_heads, n, total, head_dim) in [
                (4, 2, 1, 70, 64),
                (4, 2, 3, 70, 96),
                (2, 2, 40, 40, 80),
                (3, 1, 33, 201, 128),
                (2, 1, 5, 5, 256),
                (1, 1, 300, 300, 24),
            ] {
                let q = random(&[2, heads, n, head_dim], dtype);
                let (k, v) =
                    (random(&[2, kv_heads, total, head_dim], dtype), random(&[2, kv_heads, total, head_dim], dtype));
                let scale = 1.0 / (head_dim as f32).sqrt();
                for (mask, softcap) in MASKS.into_iter().flat_map(|mask| CAPS.map(|cap| (mask, cap))) {
                    let what = (level, dtype, heads, kv_heads, n, total, head_dim, mask, softcap);
                    let scores = Scores { scale, softcap };
                    let got = attention_at(level, &q, &k, &v, scores, mask).unwrap();
                    assert_near(&got, &exact(&q, &k, &v, scores, mask), &what);
                }
            }
        }
    }
}

/// In float32, queries computed together and one by one, and keys with or without others after them, agree to the bit.
#[test]
fn float32_results_do_not_depend_on_company() {
    let [q, k, v] = [0; 3].map(|_| random(&[1, 2, 230, 48], Dtype::Float32));
    for level in levels() {
        let whole = attention_at(level, &q, &k, &v, uncapped(0.3), Mask::Causal).unwrap();
        let mut parts = Vec::new();
        for (start, end) in [(0, 1), (1, 100), (100, 229), (229, 230)] {
            let q = q.index((.., .., start..end, ..));
            let (k, v) = (k.index((.., .., ..end, ..)), v.index((.., .., ..end, ..)));
            parts.push(attention_at(level, &q, &k, &v, uncapped(0.3), Mask::Causal).unwrap());
        }
        let parts = concatenate(&parts, 1).unwrap();
        assert_eq!(to_f64(&whole), to_f64(&parts), "{level}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(60))]

    /// Shapes that nobody thought of.
    #[test]
    fn random_shapes(
        kv_heads in 1..3_i32,
        group in 1..4_i32,
        n in 1..70_i32,
        past in 0..150_i32,
        head_dim in proptest::sample::select(vec![16, 64, 72, 80, 96, 128, 256]),
        dtype in proptest::sample::select(FLOATS.to_vec()),
        mask in proptest::sample::select(vec![Mask::Full, Mask::Causal, Mask::Window { sinks: 0, window: 1 }, SINKS]),
        softcap in proptest::sample::select(CAPS.to_vec()),
    ) {
        let q = random(&[1, kv_heads * group, n, head_dim], dtype);
        let [k, v] = [0; 2].map(|_| random(&[1, kv_heads, past + n, head_dim], dtype));
        let scores = Scores { scale: 0.1, softcap };
        let exact = exact(&q, &k, &v, scores, mask);
        for level in levels() {
            let y = attention_at(level, &q, &k, &v, scores, mask).unwrap();
            assert_near(&y, &exact, &(level, kv_heads, group, n, past, head_dim, dtype, mask, softcap));
        }
    }
}

/// Pieces of an array along the sequence axis, `[1, kv_heads, total, head_dim] -> [kv_heads, capacity, head_dim]` each, with
/// room after what is in use, of lengths that `lengths` repeats.
fn cut(array: &Array, lengths: &[i32]) -> Vec<(Array, usize)> {
    let (total, mut start) = (array.dim(2), 0);
    let mut pieces = Vec::new();
    for (i, &length) in lengths.iter().cycle().enumerate().take_while(|_| total > 0) {
        let end = total.min(start + length);
        let piece = array.index((0, .., start..end, ..));
        let room = random(&[piece.dim(0), i as i32 % 3, piece.dim(2)], array.dtype());
        pieces.push((concatenate(&[piece, room], 1).unwrap(), (end - start) as usize));
        start = end;
        if start == total {
            break;
        }
    }
    pieces
}

/// A piece of a cache that owns its arrays.
#[derive(Clone)]
enum Stored {
    Dense(Array),
    Packed(Packed),
}

impl Stored {
    fn weight(&self) -> Weight<'_> {
        match self {
            Self::Dense(array) => Weight::Dense(array),
            Self::Packed(packed) => Weight::Packed(packed),
        }
    }

    /// What is stored, as float32.
    fn floats(&self, len: usize) -> Array {
        let all = match self {
            Self::Dense(array) => array.as_dtype(Dtype::Float32).unwrap(),
            Self::Packed(packed) => unpacked(packed),
        };
        all.index((.., ..len as i32, ..))
    }
}

/// How a block is packed: group size and bits; none if it is dense.
type Form = Option<(Mode, i32, i32)>;

/// A row of a test: queries `[1, heads, n, head_dim]`, and the blocks of its cache.
#[derive(Clone)]
struct Row {
    queries: Array,
    keys: Vec<(Stored, usize)>,
    values: Vec<(Stored, usize)>,
}

impl Row {
    /// `lengths` and `forms` of blocks are repeated.
    fn new(
        (heads, kv_heads, n, total, head_dim): (i32, i32, i32, i32, i32),
        dtype: Dtype,
        lengths: &[i32],
        forms: &[Form],
    ) -> Self {
        let stored = || {
            let pieces = cut(&random(&[1, kv_heads, total, head_dim], dtype), lengths);
            let forms = forms.iter().cycle();
            let store = |((array, len), form): ((Array, usize), &Form)| match *form {
                None => (Stored::Dense(array), len),
                Some((mode, group, bits)) => {
                    (Stored::Packed(Packed::quantize(&array, group, bits, mode).unwrap()), len)
                }
            };
            pieces.into_iter().zip(forms).map(store).collect()
        };
        Self { queries: random(&[1, heads, n, head_dim], dtype), keys: stored(), values: stored() }
    }

    fn cached(&self) -> CachedRow<'_> {
        let blocks = self.keys.iter().zip(&self.values);
        CachedRow {
            queries: self.queries.dim(2) as usize,
            blocks: blocks
                .map(|((keys, len), (values, _))| Block { keys: keys.weight(), values: values.weight(), len: *len })
                .collect(),
        }
    }

    /// Keys and values `[1, kv_heads, total, head_dim]` in float32.
    fn whole(&self) -> [Array; 2] {
        [&self.keys, &self.values].map(|all| {
            let parts: Vec<Array> = all.iter().map(|(stored, len)| stored.floats(*len)).collect();
            concatenate(&parts, 1).unwrap().index(mlx_rs::ops::indexing::NewAxis)
        })
    }

    fn exact(&self, scores: Scores, mask: Mask) -> Vec<f64> {
        let [keys, values] = self.whole();
        exact(&self.queries, &keys, &values, scores, mask)
    }
}

fn attend(level: Level, rows: &[&Row], scores: Scores, mask: Mask) -> Array {
    let queries: Vec<&Array> = rows.iter().map(|row| &row.queries).collect();
    let queries = concatenate(&queries, 2).unwrap();
    let rows: Vec<CachedRow> = rows.iter().map(|row| row.cached()).collect();
    cached_attention_at(level, &queries, &rows, scores, mask).unwrap()
}

/// The form of blocks that a cache may be packed to, mixed with such that are not.
const MIXED: [Form; 4] = [Some((Mode::Affine, 32, 8)), None, Some((Mode::Affine, 32, 4)), Some((Mode::Mxfp8, 32, 8))];

#[test]
fn ragged_rows_in_blocks_dense_and_packed() {
    for dtype in FLOATS {
        for forms in [&[None][..], &MIXED[..1], &MIXED] {
            let row = |n, total, lengths: &[i32]| Row::new((4, 2, n, total, 96), dtype, lengths, forms);
            let rows =
                [row(1, 300, &[64]), row(3, 77, &[13, 1, 40]), row(40, 131, &[31]), row(5, 5, &[2]), row(1, 1, &[9])];
            for (mask, softcap) in MASKS.into_iter().flat_map(|mask| CAPS.map(|cap| (mask, cap))) {
                let scores = Scores { scale: 0.1, softcap };
                let exact: Vec<Vec<f64>> = rows.iter().map(|row| row.exact(scores, mask)).collect();
                for level in levels() {
                    let all: Vec<&Row> = rows.iter().collect();
                    let got = attend(level, &all, scores, mask);
                    assert_near(&got, &exact.concat(), &(level, dtype, forms, mask, softcap));
                }
            }
        }
    }
}

/// In float32, rows agree with [`attention_at`] on their keys in one array to the bit, together and alone, wherever blocks
/// end.
#[test]
fn float32_results_depend_on_the_keys_alone() {
    for forms in [&[None][..], &MIXED] {
        let row = |n, total, lengths: &[i32]| Row::new((4, 2, n, total, 64), Dtype::Float32, lengths, forms);
        let rows = [row(1, 400, &[64]), row(3, 250, &[7, 100, 1]), row(60, 203, &[50]), row(33, 33, &[5])];
        let all: Vec<&Row> = rows.iter().collect();
        for (level, mask) in levels().flat_map(|level| [Mask::Causal, NO_SINKS, SINKS].map(|mask| (level, mask))) {
            let scores = Scores { scale: 0.2, softcap: if mask == SINKS { Some(0.8) } else { None } };
            let together = attend(level, &all, scores, mask);
            let mut start = 0;
            for row in &rows {
                let end = start + row.queries.dim(2);
                let whole = to_f64(&attend(level, &[row], scores, mask));
                assert_eq!(to_f64(&together.index((.., start..end, ..))), whole, "{level} {mask:?}");
                if forms == [None] {
                    let [keys, values] = row.whole();
                    let same = attention_at(level, &row.queries, &keys, &values, scores, mask).unwrap();
                    assert_eq!(to_f64(&same), whole, "{level} {mask:?}");
                }
                let last = Row { queries: row.queries.index((.., .., -1.., ..)), ..row.clone() };
                let alone = to_f64(&attend(level, &[&last], scores, mask));
                assert_eq!(alone, whole[whole.len() - alone.len()..], "{level} {mask:?}");
                start = end;
            }
        }
    }
}

/// Blocks that are views of other arrays: heads far apart, and axes in another order.
#[test]
fn blocks_need_not_be_contiguous() {
    for dtype in FLOATS {
        let mut row = Row::new((4, 2, 6, 90, 64), dtype, &[40], &[None]);
        let exact = row.exact(uncapped(0.1), SINKS);
        for (i, (stored, _)) in row.keys.iter_mut().chain(&mut row.values).enumerate() {
            let Stored::Dense(array) = stored else { unreachable!() };
            let axes = [[1, 0, 2], [2, 1, 0], [0, 2, 1]][i % 3];
            // A row-major copy in another order of axes, seen in the old one.
            let turned = array.transpose_axes(&axes).unwrap().contiguous().unwrap();
            *array = turned.transpose_axes(&axes).unwrap();
        }
        let mut packed = Row::new((4, 2, 6, 90, 64), dtype, &[40], &MIXED[..1]);
        let packed_exact = packed.exact(uncapped(0.1), SINKS);
        for (stored, _) in packed.keys.iter_mut().chain(&mut packed.values) {
            let Stored::Packed(packed) = stored else { unreachable!() };
            let turn = |array: &Array| array.transpose_axes(&[1, 0, 2]);
            *packed = packed.map_rows(|array| turn(&turn(array)?.contiguous()?)).unwrap();
        }
        for level in levels() {
            let [few, packed_few] =
                [&row, &packed].map(|row| Row { queries: row.queries.index((.., .., -1.., ..)), ..row.clone() });
            for (row, last, exact) in [(&row, &few, &exact), (&packed, &packed_few, &packed_exact)] {
                assert_near(&attend(level, &[row], uncapped(0.1), SINKS), exact, &(level, dtype));
                assert_near(&attend(level, &[last], uncapped(0.1), SINKS), &exact[5 * 256..], &(level, dtype));
            }
        }
    }
}

#[test]
fn caches_that_do_not_fit_are_errors() {
    let row = Row::new((4, 2, 3, 20, 64), Dtype::Bfloat16, &[8], &[None]);
    let attend =
        |queries: &Array, row: CachedRow| crate::cached_attention(queries, &[row], uncapped(1.0), Mask::Causal);
    assert!(attend(&row.queries, row.cached()).is_ok());
    assert!(attend(&row.queries.as_dtype(Dtype::Float32).unwrap(), row.cached()).is_err());
    assert!(attend(&random(&[1, 3, 3, 64], Dtype::Bfloat16), row.cached()).is_err());
    assert!(attend(&random(&[1, 4, 3, 32], Dtype::Bfloat16), row.cached()).is_err());
    assert!(attend(&random(&[2, 4, 3, 64], Dtype::Bfloat16), row.cached()).is_err());
    assert!(attend(&row.queries, CachedRow { queries: 2, ..row.cached() }).is_err());
    assert!(attend(&row.queries, CachedRow { queries: 3, blocks: Vec::new() }).is_err());
    let mut too_long = row.cached();
    too_long.blocks[0].len = 9;
    assert!(attend(&row.queries, too_long).is_err());
    // Nothing is not an error.
    let none = row.queries.index((.., .., ..0, ..));
    let nothing = crate::cached_attention(&none, &[], uncapped(1.0), Mask::Causal).unwrap();
    nothing.eval().unwrap();
    assert_eq!(nothing.shape(), [1, 0, 256]);
    let gradient = mlx_rs::transforms::grad(|x: &Array| {
        attend(&x.reshape(&[1, 4, 3, 64]).unwrap(), row.cached()).unwrap().sum(None)
    })(&row.queries);
    assert!(gradient.is_err());
}
