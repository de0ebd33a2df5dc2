//! Pictures side by side, to look at what a training does.

use std::path::Path;

use gallop_core::{Frame, PixelSize};

use crate::error::Result;

/// Pixels between pictures.
const GAP: usize = 4;

/// Rows of pictures on one sheet, each row as high as its highest picture.
pub fn sheet(rows: &[Vec<&Frame>]) -> Frame {
    let height_of = |row: &Vec<&Frame>| row.iter().map(|f| f.size.height).max().unwrap_or(0);
    let width_of = |row: &Vec<&Frame>| row.iter().map(|f| f.size.width + GAP).sum::<usize>();
    let width = rows.iter().map(width_of).max().unwrap_or(0).max(1);
    let height: usize = rows.iter().map(|row| height_of(row) + GAP).sum();
    let mut sheet = Frame::black(PixelSize::new(width, height.max(1)));
    let mut y = 0;
    for row in rows {
        let mut x = 0;
        for frame in row {
            paste(&mut sheet, frame, [x, y]);
            x += frame.size.width + GAP;
        }
        y += height_of(row) + GAP;
    }
    sheet
}

/// Writes a sheet as PNG.
///
/// # Errors
/// If it cannot be written.
pub fn write_sheet(path: &Path, rows: &[Vec<&Frame>]) -> Result<()> {
    Ok(gallop_media::write_image(path, &sheet(rows))?)
}

fn paste(sheet: &mut Frame, frame: &Frame, [x, y]: [usize; 2]) {
    let run = frame.size.width * 3;
    for (row, pixels) in frame.rgb.chunks_exact(run).enumerate() {
        let at = ((y + row) * sheet.size.width + x) * 3;
        sheet.rgb[at..at + run].copy_from_slice(pixels);
    }
}
