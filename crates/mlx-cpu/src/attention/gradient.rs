//! The gradients of attention, with the probabilities computed anew (Dao 2023, section 3.1.2).
//!
//! With `p` the probabilities of a query and `g` the gradient with respect to its result: `dv_j = p_j · g`,
//! `ds_j = p_j · (g · v_j - Σ_i p_i (g · v_i))`, `dq = scale · Σ_j ds_j k_j`, `dk_j = scale · ds_j · q`. A soft cap
//! `s = cap · tanh(t)` multiplies `ds_j` by `1 - tanh²(t_j)`.
//!
//! As in the forward pass a query is a lane of a vector. Some panels of queries meet all keys at a time: their scores stay
//! in the cache, so that there are five products, and no sixth to have the scores again once their maxima are known.

use std::ffi::CStr;

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};

use super::many::{Bounds, column_words, keys_at_once, left_columns, left_rows};
use super::scores::SoftCap;
use super::sequence::{HeadRows, Heads};
use super::slopes::{Lanes, Largest, Probabilities, Slopes, WordsOfKeys, WordsOfQueries, WriteTurned};
use super::{Attention, Scores};
use crate::element::{Element, with_element};
use crate::ffi::Kernel;
use crate::linear::Matrix;
use crate::linear::tile::{Tiles, Transpose};
use crate::pool::parallel;
use crate::scratch::{Scratch, as_floats};
use crate::view::{SharedMut, View, ViewMut};

/// Panels of queries that meet the keys together, so that the sums of keys and values are loaded and stored half as often.
const PANELS: usize = 2;

/// Inputs: those of the attention, and the gradient `[batch, heads, n, head_dim]` with respect to its result.
pub(super) struct Gradient(pub Attention);

impl Kernel for Gradient {
    const NAME: &'static CStr = c"attention_gradient";

    fn run(&self, inputs: &[View], outputs: &mut [ViewMut]) {
        let [queries, keys, ..] = inputs else { unreachable!("four inputs") };
        let heads = Heads { heads: queries.dim(1), kv_heads: keys.dim(1), head_dim: queries.dim(3) };
        let (batch, n, total) = (queries.dim(0), queries.dim(2), keys.dim(2));
        let [dq, dk, dv] = outputs else { unreachable!("three outputs") };
        with_element!(dq.dtype(), T => {
            let outputs = [dq.shared::<T>(), dk.shared::<T>(), dv.shared::<T>()];
            let tiles = Tiles::new(self.0.level, queries.dtype);
            let call = Call { attention: self.0, tiles, heads, n, total, inputs, outputs };
            // A key head's sums run through all its queries in order, so that threads do not change them.
            parallel(batch * heads.kv_heads, |head| call.run(head / heads.kv_heads, head % heads.kv_heads));
        });
    }

    fn vjp(&self, _: &[Array], _: &[Array]) -> Result<Vec<Option<Array>>> {
        Err(Exception::custom("attention has no second derivative"))
    }
}

/// What all tasks have in common.
struct Call<'a, T> {
    attention: Attention,
    tiles: Tiles,
    heads: Heads,
    n: usize,
    total: usize,
    inputs: &'a [View<'a>],
    /// Gradients of queries, keys and values.
    outputs: [SharedMut<'a, T>; 3],
}

/// A key head as left operands, and its gradients.
struct KeyHead {
    /// Keys and values by rows, and keys by columns: see [`left_rows`] and [`left_columns`].
    keys: Scratch,
    values: Scratch,
    key_columns: Scratch,
    /// `[panels of keys, head_dim, width]`
    of_keys: Scratch,
    of_values: Scratch,
}

impl<T: Element> Call<'_, T> {
    /// A key head with all its query heads.
    fn run(&self, batch: usize, kv_head: usize) {
        let Self { tiles, heads, n, total, .. } = *self;
        let matrix = |input: usize, head: usize| Matrix::dense(&self.inputs[input].part(batch).part(head));
        let mut head = self.pack(matrix(1, kv_head), matrix(2, kv_head));
        let mut room = Room::new(tiles, heads.head_dim, total, self.attention.scores.softcap.is_some());
        for query_head in kv_head * heads.group()..(kv_head + 1) * heads.group() {
            let (queries, gradients) = (matrix(0, query_head), matrix(3, query_head));
            for first in (0..n).step_by(PANELS * tiles.width()) {
                let count = (n - first).min(PANELS * tiles.width());
                let first_row = (batch * heads.heads + query_head) * n;
                self.queries(&mut head, &mut room, &queries, &gradients, first, count, first_row);
            }
        }
        let first_row = (batch * heads.kv_heads + kv_head) * total;
        let panel_len = heads.head_dim * tiles.width();
        for (panel, key) in (0..total).step_by(tiles.width()).enumerate() {
            let count = tiles.width().min(total - key);
            let at = panel * panel_len..(panel + 1) * panel_len;
            self.write(1, first_row + key, count, &head.of_keys[at.clone()], self.attention.scores.scale);
            self.write(2, first_row + key, count, &head.of_values[at], 1.0);
        }
    }

    fn pack(&self, keys: Matrix, values: Matrix) -> KeyHead {
        let Self { tiles, heads: Heads { head_dim, .. }, n, total, .. } = *self;
        let seen = self.attention.mask.seen_by(0..n.max(1), n.max(1), total);
        let [keys, values] = [keys, values].map(|matrix| HeadRows::whole(total, matrix));
        let zeros = || {
            let mut sums = Scratch::new(total.next_multiple_of(tiles.width()) * head_dim);
            sums.fill(0);
            sums
        };
        KeyHead {
            key_columns: left_columns(tiles, head_dim, &keys, total, &seen),
            keys: left_rows(tiles, head_dim, &keys, total, &seen),
            values: left_rows(tiles, head_dim, &values, total, &seen),
            of_keys: zeros(),
            of_values: zeros(),
        }
    }

    /// Writes the first `count` columns of `sums` `[head_dim, width]` as rows of a gradient.
    fn write(&self, output: usize, row: usize, count: usize, sums: &[u32], factor: f32) {
        let head_dim = self.heads.head_dim;
        // SAFETY: each task has its own rows of the gradients.
        let to = unsafe { self.outputs[output].slice(row * head_dim, count * head_dim) };
        self.tiles.level.dispatch(WriteTurned { sums, head_dim, factor, to });
    }
}

/// Keys from `at` on that some of the queries see, with their scores from row `row` on.
#[derive(Clone, Copy)]
struct Step {
    at: usize,
    count: usize,
    row: usize,
}

/// Room for the work on some queries, which make up one panel or more.
struct Room {
    /// Of each panel `[words of head_dim, width]`.
    queries: Scratch,
    gradients: Scratch,
    /// Of all of them `[words of queries, columns]` by blocks of columns.
    query_columns: Scratch,
    gradient_columns: Scratch,
    /// `[panels, keys, width]`: scores, then probabilities; and the gradients with respect to probabilities, then to scores.
    probabilities: Scratch,
    slopes: Scratch,
    /// As those, the derivatives of the soft cap, if there is one.
    cap_derivatives: Option<Scratch>,
    /// A right operand, and what it is made from.
    panel: Scratch,
    rows: Scratch,
    /// `[head_dim, width]`
    of_queries: Scratch,
    /// Rows of a panel's scores.
    keys: usize,
}

impl Room {
    fn new(tiles: Tiles, head_dim: usize, total: usize, capped: bool) -> Self {
        let (width, at_once) = (tiles.width(), keys_at_once(tiles));
        let (words, query_words) = (tiles.words(head_dim) * width, tiles.words(PANELS * width));
        let keys = total.next_multiple_of(at_once);
        Self {
            queries: Scratch::new(PANELS * words),
            gradients: Scratch::new(PANELS * words),
            query_columns: Scratch::new(query_words * head_dim),
            gradient_columns: Scratch::new(query_words * head_dim),
            probabilities: Scratch::new(PANELS * keys * width),
            slopes: Scratch::new(PANELS * keys * width),
            cap_derivatives: capped.then(|| Scratch::new(PANELS * keys * width)),
            panel: Scratch::new(tiles.words(at_once).max(query_words) * width),
            rows: Scratch::new(query_words * width),
            of_queries: Scratch::new(head_dim * width),
            keys,
        }
    }
}

impl<T: Element> Call<'_, T> {
    /// The part of the queries `first..first + count` of a head.
    #[allow(clippy::too_many_arguments)]
    fn queries(
        &self,
        head: &mut KeyHead,
        room: &mut Room,
        queries: &Matrix,
        gradients: &Matrix,
        first: usize,
        count: usize,
        first_row: usize,
    ) {
        let Self { tiles, heads: Heads { head_dim, .. }, n, total, .. } = *self;
        let (width, mask) = (tiles.width(), self.attention.mask);
        let panels = count.div_ceil(width);
        let seen = mask.seen_by(first..first + count, n, total);
        let steps = seen.steps(keys_at_once(tiles)).enumerate().map(|(i, at)| {
            let unseen_after = (seen.recent.end - at).next_multiple_of(tiles.rows());
            Step { at, count: keys_at_once(tiles).min(unseen_after).min(total - at), row: i * keys_at_once(tiles) }
        });
        let steps: Vec<Step> = steps.collect();
        pack_columns(tiles, queries, first, count, head_dim, &mut room.query_columns);
        pack_columns(tiles, gradients, first, count, head_dim, &mut room.gradient_columns);
        let mut lanes = Vec::with_capacity(panels);
        for panel in 0..panels {
            let first = first + panel * width;
            let some = first..n.min(first + width);
            let words = tiles.words(head_dim) * width;
            let at = panel * words..(panel + 1) * words;
            tiles.pack_rows(queries, first, some.len(), head_dim, &mut room.queries[at.clone()]);
            tiles.pack_rows(gradients, first, some.len(), head_dim, &mut room.gradients[at]);
            let bounds = Bounds::new(mask, some, width, n, total);
            lanes.push(self.probabilities(head, room, panel, &steps, &bounds));
        }
        for (panel, lanes) in lanes.iter().enumerate() {
            let first = first + panel * width;
            self.of_queries(head, room, panel, &steps, lanes);
            self.write(0, first_row + first, width.min(n - first), &room.of_queries, self.attention.scores.scale);
        }
        for step in &steps {
            self.of_keys_and_values(head, room, panels, count, step);
        }
    }

    /// The probabilities of a panel, relative to the largest of each query, and the gradients with respect to them.
    fn probabilities(&self, head: &KeyHead, room: &mut Room, panel: usize, steps: &[Step], bounds: &Bounds) -> Lanes {
        let (level, width) = (self.tiles.level, self.tiles.width());
        let words = self.tiles.words(self.heads.head_dim) * width;
        let (queries, gradients) = (&room.queries[panel * words..], &room.gradients[panel * words..]);
        let part = panel * room.keys * width..(panel + 1) * room.keys * width;
        let all_scores = &mut as_floats(&mut room.probabilities)[part.clone()];
        let all_slopes = &mut as_floats(&mut room.slopes)[part.clone()];
        let mut derivatives = room.cap_derivatives.as_mut().map(|all| &mut as_floats(all)[part]);
        let Scores { scale, softcap } = self.attention.scores;
        let mut lanes = Lanes::default();
        for &Step { at, count, row } in steps {
            let scores = &mut all_scores[row * width..][..count * width];
            self.products(&head.keys, queries, at, scores);
            if let (Some(cap), Some(all)) = (softcap, &mut derivatives) {
                let derivatives = &mut all[row * width..][..count * width];
                level.dispatch(SoftCap { scale, cap, products: &mut *scores, derivatives });
            }
            let scale = if softcap.is_some() { 1.0 } else { scale };
            level.dispatch(Largest { scale, bounds, first_key: at, scores, lanes: &mut lanes });
        }
        for &Step { at, count, row } in steps {
            let scores = &mut all_scores[row * width..][..count * width];
            let slopes = &mut all_slopes[row * width..][..count * width];
            self.products(&head.values, gradients, at, slopes);
            level.dispatch(Probabilities { scores, slopes, lanes: &mut lanes });
        }
        lanes
    }

    /// The products of a panel with the rows from `at` on, as many as there is room for: whole blocks, but for the last.
    fn products(&self, rows: &[u32], panel: &[u32], at: usize, to: &mut [f32]) {
        let (width, words, block_rows) = (self.tiles.width(), self.tiles.words(self.heads.head_dim), self.tiles.rows());
        for (block, to) in to.chunks_mut(block_rows * width).enumerate() {
            let count = to.len() / width;
            let left = &rows[(at + block * block_rows) * words..][..count * words];
            self.tiles.multiply(left, count, panel, to, false);
        }
    }

    /// The gradients with respect to the scores of a panel, and the sums for its queries.
    fn of_queries(&self, head: &KeyHead, room: &mut Room, panel: usize, steps: &[Step], lanes: &Lanes) {
        let (tiles, head_dim) = (self.tiles, self.heads.head_dim);
        let width = tiles.width();
        room.of_queries.fill(0);
        let sums = as_floats(&mut room.of_queries);
        for step in steps {
            let part = (panel * room.keys + step.row) * width..(panel * room.keys + step.row + step.count) * width;
            let probabilities = &mut as_floats(&mut room.probabilities)[part.clone()];
            let slopes = &mut as_floats(&mut room.slopes)[part.clone()];
            let cap_derivatives = room.cap_derivatives.as_mut().map(|all| &as_floats(all)[part]);
            tiles.level.dispatch(Slopes { probabilities, slopes: &mut *slopes, cap_derivatives, lanes });
            let words = tiles.words(step.count);
            let to = &mut room.panel[..words * width];
            tiles.level.dispatch(WordsOfKeys { pairs: tiles.pairs, rows: slopes, to });
            let packed = tiles.words(keys_at_once(tiles).min(self.total - step.at));
            let columns = &head.key_columns[column_words(tiles, step.at) * head_dim..];
            for column in (0..head_dim).step_by(tiles.rows()) {
                let count = tiles.rows().min(head_dim - column);
                let left = &columns[column * packed..][..count * words];
                tiles.multiply(left, count, &room.panel, &mut sums[column * width..], true);
            }
        }
    }

    /// Adds what `count` queries, in so many panels, give to the keys and values of a step.
    fn of_keys_and_values(&self, head: &mut KeyHead, room: &mut Room, panels: usize, count: usize, step: &Step) {
        let (tiles, head_dim) = (self.tiles, self.heads.head_dim);
        let (width, query_words) = (tiles.width(), tiles.words(panels * tiles.width()));
        let sources = [
            (&room.slopes, &room.query_columns, &mut head.of_keys),
            (&room.probabilities, &room.gradient_columns, &mut head.of_values),
        ];
        for (all, columns, sums) in sources {
            let sums = as_floats(sums);
            for key in (0..step.count).step_by(width) {
                let keys = width.min(step.count - key);
                let rows = &mut room.rows[..width * query_words];
                let start = (step.row + key) * width;
                let stride = room.keys * width;
                tiles.level.dispatch(WordsOfQueries { tiles, all, start, stride, panels, keys, to: rows });
                let turned = &mut room.panel[..query_words * width];
                tiles.level.dispatch(Transpose { from: rows, rows: width, to: turned, width });
                let sums = &mut sums[(step.at + key) * head_dim..][..width * head_dim];
                let words = tiles.words(count);
                for column in (0..head_dim).step_by(tiles.rows()) {
                    let count = tiles.rows().min(head_dim - column);
                    let left = &columns[column * words..][..count * words];
                    tiles.multiply(left, count, turned, &mut sums[column * width..], true);
                }
            }
        }
    }
}

/// The columns of `count` rows of a matrix from `first`, by left blocks.
fn pack_columns(tiles: Tiles, matrix: &Matrix, first: usize, count: usize, head_dim: usize, to: &mut [u32]) {
    let words = tiles.words(count);
    for column in (0..head_dim).step_by(tiles.rows()) {
        let columns = tiles.rows().min(head_dim - column);
        let to = &mut to[column * words..][..columns * words];
        tiles.pack_left_columns(matrix, first..first + count, column, columns, to);
    }
}
