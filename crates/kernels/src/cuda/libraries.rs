//! Finding CUDA's libraries when they are needed, so that the binary starts without them.
//!
//! What is linked are jumps (`tools/cuda-toolkit` makes them) that ask `dlsym` when first called; here the libraries are
//! opened for them.

use std::ffi::{CStr, CString, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::{Result, bail};

/// What is needed, in the order of opening: a library may need those before it.
const LIBRARIES: [Library; 6] = [
    Library {
        name: "libcuda.so.1",
        from: "the NVIDIA driver (580 or newer)",
    },
    Library {
        name: "libnvrtc-builtins.so.13.0",
        from: "the package nvidia-cuda-nvrtc",
    },
    Library {
        name: "libnvrtc.so.13",
        from: "the package nvidia-cuda-nvrtc",
    },
    Library {
        name: "libcublasLt.so.13",
        from: "the package nvidia-cublas",
    },
    Library {
        name: "libcublas.so.13",
        from: "the package nvidia-cublas",
    },
    Library {
        name: "libcurand.so.10",
        from: "the package nvidia-curand",
    },
];

/// What is opened if it is there: fused attention.
const CUDNN: &str = "libcudnn.so.9";
/// How it was found, or why it was not.
static FOUND_CUDNN: OnceLock<std::result::Result<Opened, String>> = OnceLock::new();

/// Needed only if the next one cannot be opened without it: its name depends on the release.
const OPTIONAL: &str = "libnvrtc-builtins.so.13.0";

struct Library {
    name: &'static str,
    from: &'static str,
}

/// A library that stays open.
pub struct Opened(*mut c_void);

// SAFETY: handles of libraries may be used by any thread.
unsafe impl Send for Opened {}
// SAFETY: as above.
unsafe impl Sync for Opened {}

impl Opened {
    /// One of its functions.
    pub fn find(&self, name: &CStr) -> std::result::Result<*mut c_void, String> {
        // SAFETY: the library is open.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        match found.is_null() {
            true => Err(format!("the library has no {}", name.to_string_lossy())),
            false => Ok(found),
        }
    }
}

/// cuDNN, if `open` or `open_cudnn` found it.
pub fn cudnn() -> std::result::Result<&'static Opened, String> {
    match FOUND_CUDNN.get() {
        Some(found) => found.as_ref().map_err(Clone::clone),
        None => Err("no libraries were opened".into()),
    }
}

/// Opens cuDNN alone, which needs no driver.
pub fn open_cudnn(folders: &[PathBuf]) {
    FOUND_CUDNN.get_or_init(|| {
        open_one(CUDNN, &places(folders)).map_err(|why| {
            format!("{CUDNN} is missing: it comes with pip install nvidia-cudnn-cu13 ({why})")
        })
    });
}

/// Opens all libraries, once; where one is not on the system's own path it is looked for in `folders`.
///
/// # Errors
/// If one cannot be found or opened: names it, and what it comes with.
pub fn open(folders: &[PathBuf]) -> Result<()> {
    static OPENED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    match OPENED.get_or_init(|| open_all(folders)) {
        Ok(()) => Ok(()),
        Err(message) => bail!("{message}"),
    }
}

/// Opens the compiler of kernels alone, which needs no driver.
///
/// # Errors
/// As [`open`].
pub fn open_compiler(folders: &[PathBuf]) -> Result<()> {
    let compiler = |library: &Library| library.name.starts_with("libnvrtc");
    open_some(folders, compiler).map_err(candle_core::Error::msg)
}

fn open_all(folders: &[PathBuf]) -> std::result::Result<(), String> {
    open_some(folders, |_| true)?;
    open_cudnn(folders);
    Ok(())
}

/// Folders to look into: those given, and those of Python's packages below them.
fn places(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut places = Vec::new();
    for folder in folders {
        places.push(folder.clone());
        places.extend(inside(folder));
    }
    places
}

/// Opens a library where the system has it, else in the first of `places` that does.
fn open_one(name: &str, places: &[PathBuf]) -> std::result::Result<Opened, String> {
    let mut why = String::new();
    for path in std::iter::once(PathBuf::from(name)).chain(places.iter().map(|p| p.join(name))) {
        match dlopen(&path) {
            Ok(opened) => return Ok(opened),
            // What is wrong with a file that is there says more than that others are not.
            Err(is) if is.contains("No such file") && !why.is_empty() => {}
            Err(is) => why = is,
        }
    }
    Err(why)
}

fn open_some(
    folders: &[PathBuf],
    wanted: impl Fn(&Library) -> bool,
) -> std::result::Result<(), String> {
    let places = places(folders);
    for library in LIBRARIES.iter().filter(|library| wanted(library)) {
        let found = open_one(library.name, &places);
        if let Err(why) = found
            && library.name != OPTIONAL
        {
            return Err(format!(
                "{} is missing: it comes with {} ({why})",
                library.name, library.from
            ));
        }
    }
    Ok(())
}

/// Where Python packages keep the libraries under a folder: `nvidia/cu13/lib`, `nvidia/*/lib`, and the same in
/// `site-packages` below it.
fn inside(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let pythons = children(&folder.join("lib")).into_iter();
    let pythons =
        pythons.flat_map(|python| ["site-packages", "dist-packages"].map(|kind| python.join(kind)));
    for site in std::iter::once(folder.to_path_buf()).chain(pythons) {
        let packages = children(&site.join("nvidia")).into_iter();
        found.extend(packages.map(|package| package.join("lib")));
    }
    found
}

/// What is in a folder, in order; nothing if it cannot be read.
fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Opens a library for all that asks for symbols later.
fn dlopen(path: &Path) -> std::result::Result<Opened, String> {
    let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: CUDA's libraries may be opened by any thread; the handle stays open for the process's life.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(Opened(handle));
    }
    // SAFETY: after a failure dlerror gives a C string that is valid until the next call of this thread.
    let message = unsafe { CStr::from_ptr(libc::dlerror()) };
    Err(message.to_string_lossy().into_owned())
}
