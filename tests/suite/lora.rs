//! Fine-tuning: gradients as the reference has them, and what the command does.

mod bench;
mod dora;
mod fuse;
mod methods;
mod refused;
mod resume;
mod sight;
mod used;

use std::path::Path;
use std::rc::Rc;

use image::{Rgb, RgbImage};
use mlx_rs::{Array, Dtype};
use phi3v::adapter::Adapter;
use phi3v::checkpoint::low_rank::Attached;
use phi3v::checkpoint::{ModelFiles, Param};
use phi3v::models::{self, Model};
use phi3v::processor::images::{self, ImageLimits, ImageSource, Pixels};
use phi3v::train::gradient::{Batch, Piece, Target, Trained};

use crate::common::{crops, placement};

const TINY: &str = "tests/golden/phi3v-tiny";

/// The model in float32 with an adapter, and the adapter's tensors.
fn adapted(adapter: Adapter) -> (Model, Vec<(String, Param)>) {
    let files = ModelFiles::read(Path::new(TINY)).unwrap();
    let attached = Attached { adapter: Rc::new(adapter), share: 1.0, dropout: None };
    let weights = models::weights(&files, Some(Dtype::Float32)).unwrap().attach(attached);
    let (model, parts) = models::build_with_parts(&files, weights).unwrap();
    let is_adapter = |name: &str| name.ends_with(".lora_a") || name.ends_with(".lora_b");
    (model, parts.params.into_iter().filter(|(name, _)| is_adapter(name)).collect())
}

/// Both rows of the recording in one batch.
fn golden_batch(golden: &std::collections::HashMap<String, Array>) -> Batch {
    let processor = models::processor(&ModelFiles::read(Path::new(TINY)).unwrap()).unwrap();
    let image = ImageSource::Path(Path::new(TINY).join("lora/sample.png"));
    let image = images::load(&image, &ImageLimits::default()).unwrap();
    let mut images = processor.pixels(&[image], &crops(1)).unwrap();
    let mut batch = Batch::default();
    let mut start = 0;
    for row in 0..2 {
        let ids = golden[&format!("row{row}.input_ids")].as_slice::<i32>().to_vec();
        let labels = golden[&format!("row{row}.labels")].as_slice::<i32>().to_vec();
        for run in ids.chunk_by(|a, b| (*a < 0) == (*b < 0)) {
            batch.pieces.push(match run[0] {
                0.. => Piece::Tokens(run.iter().map(|&id| id as u32).collect()),
                _ => Piece::Image(images.remove(0)),
            });
        }
        for (at, &label) in labels.iter().enumerate().filter(|(_, label)| **label >= 0) {
            batch.targets.push(Target { from: start + at - 1, id: label as u32, weight: 1.0 });
        }
        batch.ends.push(batch.targets.len());
        batch.rows.push(placement(ids.len() as i32));
        start += ids.len();
    }
    batch
}

#[test]
fn loss_and_gradients_are_those_of_the_reference() {
    let golden = Array::load_safetensors(format!("{TINY}/lora/golden.safetensors")).unwrap();
    let golden: std::collections::HashMap<String, Array> = golden.into_iter().collect();
    let (model, params) = adapted(Adapter::read(&Path::new(TINY).join("lora")).unwrap());
    let batch = golden_batch(&golden);
    assert_eq!(batch.targets.len(), 23);
    for checkpoint in [false, true] {
        let trained = Trained { model: &model, params: params.clone(), checkpoint };
        let (loss, gradients) = trained.loss_and_gradients(&batch).unwrap();
        let loss = loss / 23.0;
        assert!((loss / 12.349_251 - 1.0).abs() < 1e-5, "{loss}");
        assert_eq!(gradients.len(), 12);
        for ((name, _), gradient) in params.iter().zip(gradients) {
            let theirs = name.replace(".lora_a", ".lora_A.weight").replace(".lora_b", ".lora_B.weight");
            let theirs = &golden[&format!("grad.base_model.model.{theirs}")];
            let ours = gradient.multiply(Array::from_f32(1.0 / 23.0)).unwrap();
            let norm = |x: &Array| x.square().unwrap().sum(None).unwrap().sqrt().unwrap().item_exact::<f32>();
            let error = norm(&ours.subtract(theirs).unwrap()) / norm(theirs);
            println!("{name} {error:e}");
            assert!(error < 1e-3, "{name}: {error}");
        }
    }
}

/// A row of a question's place, an image and a token that is to follow.
fn row_of(image: Pixels) -> Batch {
    let count = image.layout.tokens as i32 + 1;
    Batch {
        pieces: vec![Piece::Tokens(vec![1]), Piece::Image(image)],
        rows: vec![placement(count)],
        targets: vec![Target { from: count as usize - 1, id: 7, weight: 1.0 }],
        ends: vec![1],
    }
}

#[test]
fn images_that_are_looked_at_together_are_seen_as_alone() {
    let files = ModelFiles::read(Path::new(TINY)).unwrap();
    let processor = models::processor(&files).unwrap();
    let model = models::build(&files, models::weights(&files, Some(Dtype::Float32)).unwrap()).unwrap();
    let trained = Trained { model: &model, params: Vec::new(), checkpoint: false };
    // Tiles with the view of the whole: 1, 10, 7 | 13, 1, 1, which is as many as are looked at together and fewer.
    let sides = [(100, 100), (300, 300), (200, 300), (400, 300), (50, 50), (30, 30)];
    let image = |(at, (width, height)): (usize, (u32, u32))| {
        let value = |x: u32, y: u32, c: u32| ((x * (3 + at as u32) + y * (7 + c)) % 251) as u8;
        let image = RgbImage::from_fn(width, height, |x, y| Rgb([0, 1, 2].map(|c| value(x, y, c))));
        let tiles = (width / 100 * (height / 100)).max(1);
        processor.pixels(&[image], &crops(tiles)).unwrap().remove(0)
    };
    let images: Vec<Pixels> = sides.into_iter().enumerate().map(image).collect();
    assert_eq!(
        images.iter().map(|pixels| pixels.layout.grid.0 * pixels.layout.grid.1).collect::<Vec<_>>(),
        [1, 9, 6, 12, 1, 1]
    );

    let alone = images.iter().map(|pixels| trained.evaluate(&row_of(pixels.clone())).unwrap().losses[0]);
    let alone: Vec<f64> = alone.collect();
    let mut all = Batch::default();
    let mut start = 0;
    for pixels in images {
        let row = row_of(pixels);
        all.targets.extend(row.targets.iter().map(|target| Target { from: start + target.from, ..*target }));
        start += row.tokens();
        all.pieces.extend(row.pieces);
        all.rows.extend(row.rows);
        all.ends.push(all.targets.len());
    }
    let together = trained.evaluate(&all).unwrap().losses;
    println!("{alone:?}\n{together:?}");
    for (at, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert!((together / alone - 1.0).abs() < 1e-5, "{at}: {alone}, {together}");
    }
    // An image in another's place would be noticed.
    for (at, loss) in alone.iter().enumerate() {
        assert!(alone[..at].iter().all(|other| (other / loss - 1.0).abs() > 1e-4), "{at}: {alone:?}");
    }
}
