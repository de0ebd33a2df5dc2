//! cuDNN's backend interface: descriptors with attributes.
//!
//! Names and numbers are those of `cudnn_graph.h`; functions are looked up by name, so that neither cuDNN nor its
//! headers are needed to build.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use candle_core::{Result, bail};

use super::super::libraries;

/// The first release in which that takes 8-bit floats.
pub const OLDEST_EIGHT: usize = 92_500;
/// The first release that has attention as one operation (9.13.1).
const OLDEST: usize = 91_301;

pub type Raw = *mut c_void;
pub type Status = c_int;

/// Kinds of descriptors.
pub mod kind {
    pub const POINTWISE: i32 = 0;
    pub const CONVOLUTION: i32 = 1;
    pub const ENGINE: i32 = 2;
    pub const ENGINE_CONFIG: i32 = 3;
    pub const HEURISTIC: i32 = 4;
    pub const PLAN: i32 = 5;
    pub const CONVOLVE: i32 = 10;
    pub const CONVOLVE_FILTER: i32 = 11;
    pub const CONVOLVE_DATA: i32 = 12;
    pub const COMPUTE_POINTWISE: i32 = 13;
    pub const GRAPH: i32 = 15;
    pub const PACK: i32 = 16;
    pub const TENSOR: i32 = 17;
    pub const PROPERTIES: i32 = 38;
    pub const ATTENTION: i32 = 41;
}

/// Names of attributes.
pub mod name {
    pub const POINTWISE_MODE: i32 = 0;
    pub const POINTWISE_TYPE: i32 = 1;
    pub const CONVOLUTION_TYPE: i32 = 100;
    pub const CONVOLUTION_MODE: i32 = 101;
    pub const CONVOLUTION_DILATION: i32 = 102;
    pub const CONVOLUTION_STRIDE: i32 = 103;
    pub const CONVOLUTION_AFTER: i32 = 104;
    pub const CONVOLUTION_BEFORE: i32 = 105;
    pub const CONVOLUTION_DIMENSIONS: i32 = 106;
    pub const HEURISTIC_MODE: i32 = 200;
    pub const HEURISTIC_GRAPH: i32 = 201;
    pub const HEURISTIC_RESULTS: i32 = 202;
    pub const HEURISTIC_PROPERTIES: i32 = 204;
    pub const CONFIG_ENGINE: i32 = 300;
    pub const PLAN_HANDLE: i32 = 400;
    pub const PLAN_CONFIG: i32 = 401;
    pub const PLAN_WORKSPACE: i32 = 402;
    pub const PLAN_PROPERTIES: i32 = 407;
    /// The factors on result and on what was there, the convolution, its weights, its input and its output.
    pub const CONVOLVE_FIRST: i32 = 700;
    /// The same of the gradient of the input.
    pub const CONVOLVE_DATA_FIRST: i32 = 706;
    /// The same of the gradient of the weights.
    pub const CONVOLVE_FILTER_FIRST: i32 = 712;
    pub const COMPUTE_POINTWISE: i32 = 750;
    pub const POINTWISE_INPUT: i32 = 751;
    pub const POINTWISE_SECOND: i32 = 752;
    pub const POINTWISE_OUTPUT: i32 = 753;
    pub const GRAPH_HANDLE: i32 = 800;
    pub const GRAPH_OPERATIONS: i32 = 801;
    pub const TENSOR_ALIGNMENT: i32 = 900;
    pub const TENSOR_TYPE: i32 = 901;
    pub const TENSOR_SIZES: i32 = 902;
    pub const TENSOR_STRIDES: i32 = 903;
    pub const TENSOR_ID: i32 = 906;
    pub const TENSOR_BETWEEN: i32 = 907;
    pub const TENSOR_BY_VALUE: i32 = 908;
    pub const PACK_IDS: i32 = 1000;
    pub const PACK_POINTERS: i32 = 1001;
    pub const PACK_WORKSPACE: i32 = 1003;
    pub const ENGINE_NOTES: i32 = 1303;
    pub const PROPERTIES_JSON: i32 = 2702;
    /// Queries; keys, values, output, logarithms of sums and the scale follow.
    pub const ATTENTION_FIRST: i32 = 2800;
    /// Of 8-bit floats: factors that make queries, keys, values and probabilities of what is stored, those that make
    /// what is stored of probabilities and output, and the greatest of both.
    pub const ATTENTION_SCALES: i32 = 2822;
}

/// Types of attributes.
pub mod of {
    pub const HANDLE: i32 = 0;
    pub const NUMBERS: i32 = 1;
    pub const BOOLEAN: i32 = 2;
    pub const INT64: i32 = 3;
    pub const FLOAT: i32 = 4;
    pub const POINTER: i32 = 6;
    pub const CONVOLUTION_MODE: i32 = 7;
    pub const MODE: i32 = 8;
    pub const NOTE: i32 = 11;
    pub const POINTWISE_MODE: i32 = 14;
    pub const DESCRIPTOR: i32 = 15;
    pub const CHARS: i32 = 24;
}

/// Types of numbers; the mode of a heuristic that ranks by expected speed, and of one that knows the rest.
pub const F32: i32 = 0;
pub const BF16: i32 = 9;
pub const E4M3: i32 = 12;
pub const RANKED: i32 = 3;
pub const FALLBACK: i32 = 2;
/// Bytes that every tensor's address is a multiple of.
pub const ALIGNMENT: i64 = 16;

/// The functions that are called.
pub struct Api {
    pub version: usize,
    pub create: unsafe extern "C" fn(*mut Raw) -> Status,
    pub set_stream: unsafe extern "C" fn(Raw, Raw) -> Status,
    last_error: unsafe extern "C" fn(*mut c_char, usize),
    create_descriptor: unsafe extern "C" fn(i32, *mut Raw) -> Status,
    destroy_descriptor: unsafe extern "C" fn(Raw) -> Status,
    set_attribute: unsafe extern "C" fn(Raw, i32, i32, i64, *const c_void) -> Status,
    get_attribute: unsafe extern "C" fn(Raw, i32, i32, i64, *mut i64, *mut c_void) -> Status,
    finalize: unsafe extern "C" fn(Raw) -> Status,
    pub execute: unsafe extern "C" fn(Raw, Raw, Raw) -> Status,
}

impl Api {
    /// cuDNN, once it is known whether it is there.
    pub fn get() -> std::result::Result<&'static Self, String> {
        static FOUND: OnceLock<std::result::Result<Api, String>> = OnceLock::new();
        let found = FOUND.get_or_init(|| {
            let api = Self::open()?;
            match api.version < OLDEST {
                true => Err(format!(
                    "libcudnn.so.9 is of release {}.{}.{}, 9.14 or newer is needed: pip install -U nvidia-cudnn-cu13",
                    api.version / 10_000,
                    api.version / 100 % 100,
                    api.version % 100
                )),
                false => Ok(api),
            }
        });
        found.as_ref().map_err(Clone::clone)
    }

    fn open() -> std::result::Result<Self, String> {
        let library = libraries::cudnn()?;
        let find = |name: &CStr| library.find(name);
        // SAFETY: the types are those of cuDNN 9's headers.
        unsafe {
            let version: unsafe extern "C" fn() -> usize = function(find(c"cudnnGetVersion")?);
            Ok(Self {
                version: version(),
                create: function(find(c"cudnnCreate")?),
                set_stream: function(find(c"cudnnSetStream")?),
                last_error: function(find(c"cudnnGetLastErrorString")?),
                create_descriptor: function(find(c"cudnnBackendCreateDescriptor")?),
                destroy_descriptor: function(find(c"cudnnBackendDestroyDescriptor")?),
                set_attribute: function(find(c"cudnnBackendSetAttribute")?),
                get_attribute: function(find(c"cudnnBackendGetAttribute")?),
                finalize: function(find(c"cudnnBackendFinalize")?),
                execute: function(find(c"cudnnBackendExecute")?),
            })
        }
    }

    /// An error with cuDNN's own words, if the status is one.
    pub fn check(&self, status: Status, what: &str) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        let mut text = [0u8; 1024];
        // SAFETY: the room is as long as is said.
        unsafe { (self.last_error)(text.as_mut_ptr().cast(), text.len()) };
        let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
        bail!("cuDNN: {what}: status {status}: {}", text.to_string_lossy())
    }
}

/// A function of the type that the caller knows it to have.
///
/// # Safety
/// `F` must be a pointer to a function of that type.
unsafe fn function<F: Copy>(found: Raw) -> F {
    assert_eq!(size_of::<F>(), size_of::<Raw>());
    // SAFETY: pointers to functions are as wide as any, as was checked.
    unsafe { std::mem::transmute_copy(&found) }
}

/// A description, destroyed when dropped.
pub struct Descriptor(pub Raw);

impl Drop for Descriptor {
    fn drop(&mut self) {
        if let Ok(api) = Api::get() {
            // SAFETY: it was made by `new` and is not used again.
            unsafe { (api.destroy_descriptor)(self.0) };
        }
    }
}

impl Descriptor {
    /// One of a kind, without attributes.
    pub fn new(api: &Api, kind: i32) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: there is room for one pointer.
        let status = unsafe { (api.create_descriptor)(kind, &raw mut raw) };
        api.check(status, "a descriptor")?;
        Ok(Self(raw))
    }

    /// Gives an attribute its values.
    pub fn set<T>(&self, api: &Api, name: i32, of: i32, values: &[T]) -> Result<()> {
        let (count, at) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: there are as many values as is said, of the type that the attribute has.
        let status = unsafe { (api.set_attribute)(self.0, name, of, count, at) };
        api.check(status, "an attribute")
    }

    /// Gives an attribute another descriptor.
    pub fn set_one(&self, api: &Api, name: i32, of: &Descriptor) -> Result<()> {
        self.set(api, name, of::DESCRIPTOR, &[of.0])
    }

    /// Reads an attribute into the room there is, which for descriptors holds some of the kind to be filled; how many
    /// values it has.
    pub fn get<T>(&self, api: &Api, name: i32, of: i32, room: &mut [T]) -> Result<usize> {
        // Only for no address at all the library counts what there is.
        let to = match room {
            [] => std::ptr::null_mut(),
            _ => room.as_mut_ptr().cast(),
        };
        let (mut count, room) = (0i64, room.len() as i64);
        // SAFETY: there is as much room as is said, of the type that the attribute has.
        let status = unsafe { (api.get_attribute)(self.0, name, of, room, &raw mut count, to) };
        api.check(status, "what an attribute is")?;
        Ok(count.max(0) as usize)
    }

    /// Closes it, after its attributes.
    pub fn finish(self, api: &Api, what: &str) -> Result<Self> {
        // SAFETY: the descriptor is alive.
        api.check(unsafe { (api.finalize)(self.0) }, what)?;
        Ok(self)
    }
}
