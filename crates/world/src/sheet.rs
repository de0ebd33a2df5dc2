//! A contact sheet: one frame each of many clips, side by side.

use gallop_core::{Frame, PixelSize};

use crate::world::render_still;
use crate::{Look, WorldConfig, WorldError, registry};

/// Pixels between two pictures.
const GAP: usize = 4;

/// A grid of pictures: a column for each family of `config` (all if it names none) and a row for
/// each of its looks (all if it names none), every cell from its own clip of the first size and
/// length. A single family gets `columns` clips a row instead.
///
/// # Errors
/// As [`WorldConfig::spec`].
pub fn contact_sheet(config: &WorldConfig, columns: usize, seed: u64) -> Result<Frame, WorldError> {
    let families: Vec<String> = match config.families.as_slice() {
        [] => registry().iter().map(|f| f.name().to_owned()).collect(),
        [one] => vec![one.clone(); columns.max(1)],
        some => some.to_vec(),
    };
    let looks = if config.looks.is_empty() {
        Look::ALL
    } else {
        &config.looks
    };
    let cell = *config.sizes.first().ok_or(WorldError::NoSize)?;
    let mut sheet = Frame::black(PixelSize::new(
        families.len() * (cell.width + GAP) - GAP,
        looks.len() * (cell.height + GAP) - GAP,
    ));
    for (row, &look) in looks.iter().enumerate() {
        for (column, family) in families.iter().enumerate() {
            let one = WorldConfig {
                families: vec![family.clone()],
                looks: vec![look],
                sizes: vec![cell],
                ..config.clone()
            };
            let spec = one.spec(seed + (row * families.len() + column) as u64)?;
            let picture = render_still(&spec, telling_moment(&spec))?;
            let corner = (column * (cell.width + GAP), row * (cell.height + GAP));
            paste(&mut sheet, &picture, corner);
        }
    }
    Ok(sheet)
}

/// The frame to show: the middle, where most things are on their way.
fn telling_moment(spec: &crate::Spec) -> usize {
    spec.shape.frames / 2
}

fn paste(sheet: &mut Frame, picture: &Frame, (x, y): (usize, usize)) {
    let bytes = picture.size.width * 3;
    for (row, pixels) in picture.rgb.chunks_exact(bytes).enumerate() {
        let at = ((y + row) * sheet.size.width + x) * 3;
        sheet.rgb[at..at + bytes].copy_from_slice(pixels);
    }
}
