//! Trains by a recipe: `train video-ae|audio-ae RECIPE FOLDER`.
use std::path::Path;
use std::time::Instant;
use gallop_core::{Cancel, Progress};
use gallop_train::*;
struct Print(Instant);
impl Progress for Print {
    fn stage(&self, name: &str, total: u64) { println!("{name}: {total}"); }
    fn at(&self, _done: u64) {}
    fn note(&self, message: &str) { println!("[{:7.1}] {message}", self.0.elapsed().as_secs_f64()); }
}
fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let (recipe, folder) = (Path::new(&args[2]), Path::new(&args[3]));
    let (progress, cancel) = (Print(Instant::now()), Cancel::default());
    let outcome = match args[1].as_str() {
        "video-ae" => train_video_ae(&read_recipe(recipe)?, folder, &progress, &cancel)?,
        _ => train_audio_ae(&read_recipe(recipe)?, folder, &progress, &cancel)?,
    };
    println!("{outcome:?}");
    Ok(())
}
