//! Positions for rotary embeddings, where an image's tokens may stand in rows and columns.

use super::images::Layout;
use crate::nn::Position;

/// Counts the positions of a sequence from its beginning.
/// modeling_qwen2_vl.py, get_rope_index
#[derive(Debug, Clone, Copy, Default)]
pub struct PositionCounter {
    next: i32,
}

impl PositionCounter {
    /// The positions of `n` tokens of text.
    pub fn text(&mut self, n: usize) -> impl Iterator<Item = Position> + use<> {
        let start = self.next;
        self.next += n as i32;
        (start..self.next).map(|position| [position; 3])
    }

    /// The positions of an image: what follows starts after the larger of its sides.
    pub fn image(&mut self, tokens: usize, extent: Option<(usize, usize)>) -> Vec<Position> {
        let Some((rows, cols)) = extent else { return self.text(tokens).collect() };
        let start = self.next;
        self.next += rows.max(cols) as i32;
        let cell = |index: usize| [start, start + (index / cols) as i32, start + (index % cols) as i32];
        (0..rows * cols).map(cell).collect()
    }

    /// The same for an image of this layout.
    pub fn layout(&mut self, layout: &Layout) -> Vec<Position> {
        self.image(layout.tokens, layout.extent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_on_after_the_larger_side_of_an_image() {
        let mut counter = PositionCounter::default();
        assert_eq!(counter.text(2).collect::<Vec<_>>(), [[0; 3], [1; 3]]);
        let image = counter.image(6, Some((2, 3)));
        assert_eq!(image, [[2, 2, 2], [2, 2, 3], [2, 2, 4], [2, 3, 2], [2, 3, 3], [2, 3, 4]]);
        assert_eq!(counter.text(1).collect::<Vec<_>>(), [[5; 3]]);
        assert_eq!(counter.image(2, None), [[6; 3], [7; 3]]);
    }
}
