//! The pixels of a case's images: what the image processor makes of them.

use anyhow::Result;

use super::Check;
use super::compare::{close, equal, tolerance};
use super::recording::Numbers;
use super::stages::{Case, missing};
use crate::processor::images::{self, ImageLimits, ImageProcessor, ImageSource, Pixels};

/// Compares the layout and the pixels of image `index`.
pub(super) fn compare(
    case: &Case,
    processor: &dyn ImageProcessor,
    index: usize,
    image: &Pixels,
    checks: &mut Vec<Check>,
) -> Result<()> {
    layout(case, index, image, checks);
    let sheet = case.folder.join(format!("sheet_{index}.png"));
    if sheet.is_file() {
        let sheet = images::load(&ImageSource::Path(sheet), &ImageLimits::default())?;
        // What is resized already stays as it is, so equal pixels mean equal bytes of the sheet.
        let same = processor.pixels(&sheet, &image.layout).values == image.values;
        let outcome = if same { Ok("equal to the byte".into()) } else { Err("its bytes differ".into()) };
        checks.push(Check::new(format!("sheet_{index}"), outcome));
    }
    // Tiles are called crops where the recording is of Phi-3-vision.
    for (samples, at) in [("crop_samples", "crop_sample_index"), ("pixel_samples", "pixel_sample_index")] {
        let name = format!("{samples}_{index}");
        let Some(samples) = case.tensors.get(&name) else { continue };
        let outcome = match case.tensors.ids(at) {
            None => Err(missing(at)),
            Some(at) => {
                let parts = 0..samples.values.len() / at.len();
                let at = |part| at.iter().map(move |&flat| (part, flat as usize));
                close(&elements(processor, image, parts.flat_map(at)), samples, tolerance::PIXELS)
            }
        };
        checks.push(Check::new(name, outcome));
    }
    // The first parts; without an index where there is one image.
    for name in [format!("pixel_values_{index}"), "pixel_values".to_owned()] {
        if let Some(values) = case.tensors.get(&name) {
            let len = processor.part_len();
            let all = (0..values.values.len()).map(|at| (at / len, at % len));
            let ours = elements(processor, image, all);
            checks.push(Check::new(name, close(&ours, values, tolerance::PIXELS)));
        }
    }
    for (name, per_part) in [("crop_stats", true), ("pixel_stats", false)] {
        let name = format!("{name}_{index}");
        if let Some(recorded) = case.tensors.get(&name) {
            let part_len = if per_part { processor.part_len() } else { image.values.len() };
            let ours: Vec<f64> = image.values.chunks(part_len).flat_map(statistics).collect();
            checks.push(Check::new(name, close(&ours, &with_means(recorded, part_len), tolerance::PIXELS)));
        }
    }
    Ok(())
}

fn layout(case: &Case, index: usize, image: &Pixels, checks: &mut Vec<Check>) {
    let layout = &image.layout;
    let tokens = match case.tensors.ids("num_img_tokens") {
        Some(all) => all.get(index).copied(),
        None => case.recording.num_img_tokens.get(index).copied(),
    };
    let size = case.tensors.ids("image_sizes").and_then(|all| Some(all.get(2 * index..2 * index + 2)?.to_vec()));
    let grid = match case.tensors.ids("image_grid_thw") {
        Some(all) => all.get(3 * index..3 * index + 3).map(<[i64]>::to_vec),
        None => case.recording.image_grid_thw.get(index).map(|grid| grid.to_vec()),
    };
    let (width, height) = layout.size;
    let (rows, cols) = layout.grid;
    // A recording has the size in pixels or in patches.
    let size = size.map(|size| ("image_sizes", equal(&[height.into(), width.into()], &size)));
    let grid = grid.map(|grid| ("image_grid_thw", equal(&[1, rows as i64, cols as i64], &grid)));
    if size.is_none() && grid.is_none() {
        checks.push(Check::new(format!("image_sizes_{index}"), Err(missing("image_sizes or image_grid_thw"))));
    }
    for (name, outcome) in size.into_iter().chain(grid) {
        checks.push(Check::new(format!("{name}_{index}"), outcome));
    }
    let name = format!("num_img_tokens_{index}");
    match tokens {
        Some(tokens) => checks.push(Check::new(name, equal(&[layout.tokens as i64], &[tokens]))),
        None if case.recording.messages.is_some() => checks.push(Check::new(name, Err(missing("num_img_tokens")))),
        // Where the prompt is made of ids, they are counted among those.
        None => {}
    }
}

/// Elements by part and by their place in it as the reference has it; infinite where there are fewer parts.
fn elements(processor: &dyn ImageProcessor, image: &Pixels, at: impl Iterator<Item = (usize, usize)>) -> Vec<f64> {
    let element = |(part, flat)| image.values.get(processor.reference_index(part, flat));
    at.map(|at| element(at).map_or(f64::INFINITY, |&value| value.into())).collect()
}

/// Mean, standard deviation of a sample, and the mean once more in the place of the sum.
fn statistics(values: &[f32]) -> [f64; 3] {
    let n = values.len() as f64;
    let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / n;
    let squares: f64 = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum();
    [mean, (squares / (n - 1.0)).sqrt(), mean]
}

/// Recorded statistics with means in the place of sums, so that one tolerance serves all three.
fn with_means(recorded: &Numbers, part_len: usize) -> Numbers {
    let values = recorded.values.iter().enumerate();
    let values = values.map(|(i, value)| if i % 3 == 2 { value / part_len as f64 } else { *value }).collect();
    Numbers { shape: recorded.shape.clone(), values }
}
