//! Pickles: what PyTorch wrote is read, and what could do harm is refused.

use std::{fs, path::PathBuf};

use candle_core::{DType, Tensor};
use gallop_model::pickle::{Element, PickleError, PickleFile};
use proptest::prelude::*;

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny.ckpt")
}

fn open_bytes(bytes: &[u8]) -> Result<PickleFile, PickleError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    PickleFile::open(file.path())
}

/// A zip archive of plain entries. Checksums are left at zero: the reader does not use them.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut directory = Vec::new();
    for (name, data) in entries {
        let at = out.len() as u32;
        let size = (data.len() as u32).to_le_bytes();
        let name_size = (name.len() as u16).to_le_bytes();
        out.extend(b"PK\x03\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00");
        out.extend(size.iter().chain(&size).chain(&name_size).chain(&[0, 0]));
        out.extend(name.as_bytes().iter().chain(*data));
        directory
            .extend(b"PK\x01\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00");
        directory.extend(size.iter().chain(&size).chain(&name_size));
        directory.extend([0; 12]);
        directory.extend(at.to_le_bytes().iter().chain(name.as_bytes()));
    }
    let at = (out.len() as u32).to_le_bytes();
    let count = (entries.len() as u16).to_le_bytes();
    let size = (directory.len() as u32).to_le_bytes();
    out.extend(directory);
    out.extend(b"PK\x05\x06\x00\x00\x00\x00");
    out.extend(
        count
            .iter()
            .chain(&count)
            .chain(&size)
            .chain(&at)
            .chain(&[0, 0]),
    );
    out
}

fn open_pickle(pickle: &[u8]) -> Result<PickleFile, PickleError> {
    open_bytes(&archive(&[("x/data.pkl", pickle), ("x/data/0", &[0; 16])]))
}

/// A pickle of one tensor `t` of 32-bit floats over storage `0`, with sizes and strides as given.
fn one_tensor(offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let mut pickle = b"\x80\x02}X\x01\x00\x00\x00t".to_vec();
    pickle.extend(
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n",
    );
    pickle.extend(b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ");
    pickle.extend(offset.iter().chain(b"(").chain(shape).chain(b"t("));
    pickle.extend(strides.iter().chain(b"t\x89NtRs."));
    pickle
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.flatten_all().unwrap();
    flat.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

#[test]
fn reads_what_pytorch_wrote() {
    let file = PickleFile::open(&fixture()).unwrap();
    let load = |name: &str| {
        values(
            &file
                .tensor(&format!("ema_state_dict.module.{name}"))
                .unwrap(),
        )
    };
    let upto = |n: u8| (0..n).map(f32::from).collect::<Vec<_>>();
    assert_eq!(load("a.weight"), upto(12));
    assert_eq!(load("a.turned"), [0., 3., 1., 4., 2., 5.]);
    assert_eq!(load("b.half"), [1.5, -2.]);
    assert_eq!(load("c.count"), [1., 2., 3.]);
    assert_eq!(load("d.parameter"), [0.25]);
    assert_eq!(load("e.slice"), [10., 11., 12., 13.]);
    let (shape, element) = file.info("ema_state_dict.module.b.half").unwrap();
    assert_eq!((shape, element), (&[2][..], Element::BF16));
    assert!(file.info("model.bias").is_some());
    assert_eq!(file.names().count(), 8);
}

#[test]
fn code_is_refused_by_name() {
    let marker = tempfile::tempdir().unwrap();
    let touched = marker.path().join("ran");
    let command = format!("touch {}", touched.display());
    let protocol0 = format!("cos\nsystem\n(S'{command}'\ntR.");
    let mut protocol4 = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c".to_vec();
    protocol4.push(command.len() as u8);
    protocol4.extend(command.as_bytes().iter().chain(b"\x85R."));
    let nested = b"\x80\x02}X\x01\x00\x00\x00acbuiltins\neval\nX\x03\x00\x00\x001+1\x85Rs.";
    let instance = b"(X\x02\x00\x00\x00lsios\nsystem\n.";
    for (pickle, name) in [
        (protocol0.as_bytes(), "os.system"),
        (&protocol4, "posix.system"),
        (nested, "builtins.eval"),
        (b"ctorch.hub\nload\n)R.", "torch.hub.load"),
        (b"ctorch\nload\n)R.", "torch.load"),
        (b"cnumpy.core.multiarray\n_reconstruct\n)R.", "_reconstruct"),
    ] {
        let error = open_pickle(pickle).unwrap_err();
        assert!(
            matches!(&error, PickleError::Code(code) if code.contains(name)),
            "{error}"
        );
    }
    assert!(open_pickle(instance).is_err());
    assert!(!touched.exists());
}

#[test]
fn every_cut_of_a_file_is_an_error() {
    let bytes = fs::read(fixture()).unwrap();
    for size in (0..bytes.len()).step_by(7) {
        assert!(open_bytes(&bytes[..size]).is_err(), "cut at {size}");
    }
    let error = open_bytes(&bytes[..bytes.len() / 2]).unwrap_err();
    assert!(error.to_string().contains("cut short"), "{error}");
}

#[test]
fn a_tensor_stays_within_its_numbers() {
    assert!(open_pickle(&one_tensor(b"K\x00", b"K\x02K\x02", b"K\x02K\x01")).is_ok());
    let huge = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
    let negative = b"J\xff\xff\xff\xff";
    for (offset, shape, strides) in [
        (&b"K\x01"[..], &b"K\x04"[..], &b"K\x01"[..]),
        (b"K\x00", b"K\x05", b"K\x01"),
        (b"K\x00", b"K\x03", b"K\x02"),
        (b"K\x00", huge, b"K\x00"),
        (b"K\x00", huge, huge),
        (huge, b"K\x01", b"K\x01"),
        (b"K\x00", &[&huge[..], huge].concat(), b"K\x00K\x00"),
        (negative, b"K\x01", b"K\x01"),
        (b"K\x00", negative, b"K\x01"),
        (b"K\x00", b"K\x02", b"K\x01K\x01"),
    ] {
        let error = open_pickle(&one_tensor(offset, shape, strides)).unwrap_err();
        assert!(
            matches!(
                error,
                PickleError::Tensor { .. } | PickleError::Damaged { .. }
            ),
            "{error}"
        );
    }
}

#[test]
fn an_empty_tensor_of_huge_sides_is_empty() {
    let huge = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
    let shape = [&b"K\x00"[..], huge, huge].concat();
    let file = open_pickle(&one_tensor(b"K\x00", &shape, b"K\x00K\x00K\x00"));
    // Whether such a shape is taken or refused, it neither panics nor allocates.
    if let Ok(file) = file {
        let _ = file.tensor("t");
    }
}

#[test]
fn shared_parts_do_not_unfold_without_end() {
    // Forty dictionaries, each holding the one before it twice.
    let mut pickle = b"\x80\x02}q\x00".to_vec();
    for level in 0..40u8 {
        pickle.extend(b"}(X\x01\x00\x00\x00ah");
        pickle.push(level);
        pickle.extend(b"X\x01\x00\x00\x00bh");
        pickle.push(level);
        pickle.extend([b'u', b'q', level + 1]);
    }
    pickle.push(b'.');
    assert!(open_pickle(&pickle).is_err());
    // A list that holds itself.
    assert!(open_pickle(b"]q\x00h\x00a.").is_err());
}

#[test]
fn deep_nesting_is_no_deep_recursion() {
    let mut pickle = b")".to_vec();
    pickle.extend(std::iter::repeat_n(0x85, 2_000_000));
    pickle.push(b'.');
    assert!(open_pickle(&pickle).is_err());
}

#[test]
fn old_and_foreign_files_are_named() {
    let text = |bytes: &[u8]| open_bytes(bytes).unwrap_err().to_string();
    assert!(text(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.").contains("newer PyTorch"));
    assert!(text(b"hello").contains("not a zip"));
    assert!(text(&archive(&[("readme", b"hi")])).contains("data.pkl"));
    let big = archive(&[("x/data.pkl", b"}."), ("x/byteorder", b"big")]);
    assert!(text(&big).contains("big-endian"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_pickles_never_panic(pickle in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = open_pickle(&pickle);
    }

    #[test]
    fn random_opcodes_never_panic(
        ops in proptest::collection::vec(
            proptest::sample::select(b"(012.qhNGJKMX)t\x85\x86\x87]}suaeQRbc\x93\x81\x8c\x94\x00\x01\n".to_vec()),
            0..300,
        ),
    ) {
        let _ = open_pickle(&ops);
    }

    #[test]
    fn changed_bytes_never_panic(at in 0usize..4067, byte in any::<u8>()) {
        let mut bytes = fs::read(fixture()).unwrap();
        bytes[at] = byte;
        if let Ok(file) = open_bytes(&bytes) {
            for name in file.names() {
                let _ = file.tensor(name);
            }
        }
    }
}
