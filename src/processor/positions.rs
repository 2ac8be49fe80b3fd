//! Which positions of a prompt come from where.

use std::ops::Range;

use serde::Serialize;

use super::{Prompt, Segment, Tiles};

/// A piece of a prompt and its positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Text.
    Text(Range<usize>),
    /// A picture.
    Picture(PicturePositions),
}

/// The positions of a picture: its tiles line by line, a separator after each line, one between the tiles and the view of
/// the whole, and the lines of that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PicturePositions {
    /// Its number, from 1.
    pub picture: usize,
    /// All of it.
    pub all: Range<usize>,
    /// Tiles below each other.
    pub rows: usize,
    /// Tiles beside each other.
    pub cols: usize,
    /// The tiles, row by row.
    pub tiles: Vec<TilePositions>,
    /// Between the tiles and the whole.
    pub separator: usize,
    /// Lines of the view of the whole.
    pub whole: Vec<Range<usize>>,
}

/// The positions of a tile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TilePositions {
    /// Its place, from 1.
    pub row: usize,
    /// Its place, from 1.
    pub col: usize,
    /// Its lines.
    pub lines: Vec<Range<usize>>,
}

impl PicturePositions {
    /// Of picture number `picture`, which begins at `start`.
    /// modeling_phi3_v.py, Phi3ImageEmbedding.forward, `sub_glb`
    pub fn new(picture: usize, start: usize, tiles: &Tiles) -> Self {
        let Tiles { rows, cols, line: len, .. } = *tiles;
        let width = cols * len + 1;
        let line = |row: usize, col: usize, line: usize| {
            let at = start + (row * len + line) * width + col * len;
            at..at + len
        };
        let tile = |row, col| TilePositions {
            row: row + 1,
            col: col + 1,
            lines: (0..len).map(|i| line(row, col, i)).collect(),
        };
        let separator = start + rows * len * width;
        let whole = (0..len).map(|i| separator + 1 + i * (len + 1)).map(|at| at..at + len).collect();
        Self {
            picture,
            all: start..start + tiles.image_tokens(),
            rows,
            cols,
            tiles: (0..rows * cols).map(|index| tile(index / cols, index % cols)).collect(),
            separator,
            whole,
        }
    }
}

impl Prompt {
    /// Its pieces in order.
    pub fn positions(&self) -> Vec<Positions> {
        let mut start = 0;
        let piece = |segment: &Segment| {
            let at = start;
            start += self.segment_len(segment);
            match segment {
                Segment::Text(_) => Positions::Text(at..start),
                Segment::Image(index) => Positions::Picture(PicturePositions::new(index + 1, at, &self.images[*index])),
            }
        };
        self.segments.iter().map(piece).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_of_a_picture_has_one_place() {
        let tiles = Tiles { pixels: Vec::new(), rows: 2, cols: 3, line: 12 };
        let found = PicturePositions::new(1, 7, &tiles);
        let mut positions: Vec<usize> =
            found.tiles.iter().flat_map(|tile| &tile.lines).chain(&found.whole).cloned().flatten().collect();
        positions.push(found.separator);
        positions.sort_unstable();
        let distinct = positions.len();
        positions.dedup();
        // All but the ends of lines: 24 of the tiles, 12 of the whole.
        assert_eq!((distinct, positions.len()), (tiles.image_tokens() - 36, tiles.image_tokens() - 36));
        assert_eq!((positions[0], positions[positions.len() - 1]), (7, found.all.end - 2));
        // The first line of the second tile follows that of the first.
        assert_eq!(found.tiles[1].lines[0], 19..31);
        assert_eq!(found.tiles[3].lines[0].start, 7 + 12 * 37);
    }
}
