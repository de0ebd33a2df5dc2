//! What goes into the public pipeline besides text: pictures, latents to refine, sampled sound. Against
//! numbers of the public code and the libraries under it.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use gallop_model::{
    WeightFiles,
    public::{
        Picture,
        oobleck::AudioMoments,
        refine::{enlarge, renoise, renoise_audio},
    },
};

fn golden() -> WeightFiles {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    WeightFiles::open(&folder.join("entry.safetensors")).unwrap()
}

fn load(name: &str) -> Tensor {
    golden().load(name, &Device::Cpu).unwrap()
}

fn compare(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let norm = |x: &Tensor| {
        let x = x.to_dtype(DType::F64).unwrap().sqr().unwrap();
        x.sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
    };
    let error = norm(&(got - want).unwrap()) / norm(want);
    println!("{what}: relative error {error:.2e}");
    assert!(error < 1e-6, "{what}: {error:.2e}");
}

fn picture(name: &str) -> Picture {
    let tensor = load(name);
    let (height, width, _) = tensor.dims3().unwrap();
    Picture::new(
        width,
        height,
        tensor.flatten_all().unwrap().to_vec1().unwrap(),
    )
    .unwrap()
}

#[test]
fn golden_pictures_are_cropped_and_resized_to_the_byte() {
    for i in 0..6 {
        let want = load(&format!("picture{i}.out"));
        let (height, width, _) = want.dims3().unwrap();
        let got = picture(&format!("picture{i}.in")).fit(width, height);
        assert_eq!(got, picture(&format!("picture{i}.out")), "picture {i}");
    }
    let tensor = picture("picture3.in").to_tensor().unwrap();
    let want = load("picture3.in").to_dtype(DType::F32).unwrap();
    let want = ((want / 255.0).unwrap() * 2.0).unwrap() - 1.0;
    compare("values", &tensor.squeeze(0).unwrap(), &want.unwrap());
}

#[test]
fn golden_latents_are_enlarged_and_made_noisy() {
    let enlarged = enlarge(&load("refine.latents"), 12, 15).unwrap();
    compare("enlarged", &enlarged, &load("refine.enlarged"));
    let noisy = renoise(&enlarged, &load("refine.noise"), f64::from(0.8389f32)).unwrap();
    compare("renoised", &noisy, &load("refine.renoised"));
    let audio = renoise_audio(&load("refine.audio"), &load("refine.audio_noise")).unwrap();
    compare("audio", &audio, &load("refine.audio_renoised"));
}

#[test]
fn golden_sound_is_sampled_from_its_moments() {
    let moments = AudioMoments {
        mean: load("sample.mean"),
        scale: load("sample.scale"),
    };
    let got = moments.sample(&load("sample.noise")).unwrap();
    compare("sampled", &got, &load("sample.out"));
}

#[test]
fn a_picture_has_all_its_bytes() {
    assert!(Picture::new(2, 2, vec![0; 11]).is_err());
    assert!(Picture::new(0, 0, vec![]).is_err());
}
