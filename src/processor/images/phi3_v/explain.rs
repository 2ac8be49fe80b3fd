//! Where the parts of an image are in a prompt: its tiles line by line, a separator after each line, one between the tiles
//! and the view of the whole, and the lines of that.

use std::ops::Range;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::processor::images::Explanation;
use crate::processor::span;

/// The positions of a tile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct TilePositions {
    /// Its row, from 1.
    row: usize,
    /// Its column, from 1.
    col: usize,
    /// Its lines.
    lines: Vec<Range<usize>>,
}

/// The positions of an image's parts.
struct Positions {
    /// The tiles, row by row.
    tiles: Vec<TilePositions>,
    /// Between the tiles and the whole.
    separator: usize,
    /// Lines of the view of the whole.
    whole: Vec<Range<usize>>,
}

impl Positions {
    /// Of an image that begins at `start`, with `side` tokens on a side of each tile.
    /// modeling_phi3_v.py, Phi3ImageEmbedding.forward, `sub_glb`
    fn new((rows, cols): (usize, usize), side: usize, start: usize) -> Self {
        let width = cols * side + 1;
        let line = |row: usize, col: usize, line: usize| {
            let at = start + (row * side + line) * width + col * side;
            at..at + side
        };
        let tile = |row, col| TilePositions {
            row: row + 1,
            col: col + 1,
            lines: (0..side).map(|i| line(row, col, i)).collect(),
        };
        let separator = start + rows * side * width;
        Self {
            tiles: (0..rows * cols).map(|index| tile(index / cols, index % cols)).collect(),
            separator,
            whole: (0..side).map(|i| separator + 1 + i * (side + 1)).map(|at| at..at + side).collect(),
        }
    }

    fn lines(&self) -> Vec<String> {
        let of_tile = |tile: &TilePositions| {
            let (first, last) = (&tile.lines[0], &tile.lines[tile.lines.len() - 1]);
            let (row, col, count) = (tile.row, tile.col, tile.lines.len());
            format!("tile {row}, {col}: {count} lines of {}, the last at {}", span(first), span(last))
        };
        let (first, last) = (&self.whole[0], &self.whole[self.whole.len() - 1]);
        let rest = [
            format!("separator: {}", self.separator),
            format!("the whole: {} lines from {} to {}", self.whole.len(), span(first), span(last)),
        ];
        self.tiles.iter().map(of_tile).chain(rest).collect()
    }

    fn parts(&self, (rows, cols): (usize, usize)) -> Map<String, Value> {
        [
            ("rows", json!(rows)),
            ("cols", json!(cols)),
            ("tiles", json!(self.tiles)),
            ("separator", json!(self.separator)),
            ("whole", json!(self.whole)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
    }
}

pub(super) fn explain(grid: (usize, usize), side: usize, start: usize) -> Explanation {
    let positions = Positions::new(grid, side, start);
    Explanation { lines: positions.lines(), parts: positions.parts(grid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_of_an_image_has_one_place() {
        let found = Positions::new((2, 3), 12, 7);
        let mut positions: Vec<usize> =
            found.tiles.iter().flat_map(|tile| &tile.lines).chain(&found.whole).cloned().flatten().collect();
        positions.push(found.separator);
        positions.sort_unstable();
        let distinct = positions.len();
        positions.dedup();
        // All but the ends of lines: 24 of the tiles, 12 of the whole.
        let tokens = 7 * 144 + 1 + 36;
        assert_eq!((distinct, positions.len()), (tokens - 36, tokens - 36));
        assert_eq!((positions[0], positions[positions.len() - 1]), (7, 7 + tokens - 2));
        // The first line of the second tile follows that of the first.
        assert_eq!(found.tiles[1].lines[0], 19..31);
        assert_eq!(found.tiles[3].lines[0].start, 7 + 12 * 37);
    }
}
