//! What the pickle machine holds: plain data, and names of tensors' parts. No code.

use std::rc::Rc;

/// A value on the machine's stack. Containers are indices into the machine's arena, so that
/// values can be shared and even cyclic without recursion when they are dropped.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// `None`, numbers that no tensor needs, devices, hooks: kept as a placeholder.
    Opaque,
    Bool,
    Int(i64),
    Str(Rc<str>),
    /// A tuple or a list.
    Sequence(usize),
    Dict(usize),
    Global(Global),
    Storage(Rc<Storage>),
    Tensor(Rc<Strided>),
}

/// The only names that a pickle may speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    /// `torch.Size`: a tuple.
    Size,
    RebuildTensor,
    RebuildParameter,
    StorageType(Element),
    /// Values without weight for us: `torch.device`, dtypes, layouts, sets.
    Plain,
}

impl Global {
    /// The allowed name, or `None` for anything else.
    pub(super) fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "Size") => Self::Size,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
            ("torch", "device") => Self::Plain,
            ("torch.serialization", "_get_layout") => Self::Plain,
            ("builtins" | "__builtin__", "set" | "frozenset" | "bytearray") => Self::Plain,
            ("_codecs", "encode") => Self::Plain,
            ("torch", name) => match name.strip_suffix("Storage") {
                Some(kind) => Self::StorageType(Element::of_storage(kind)?),
                None => Self::dtype(name)?,
            },
            _ => return None,
        })
    }

    fn dtype(name: &str) -> Option<Self> {
        const KINDS: [&str; 5] = ["float", "bfloat", "int", "uint", "complex"];
        let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let known = KINDS.contains(&letters)
            || ["bool", "half", "double", "long", "short"].contains(&name)
            || name.starts_with("float8_");
        known.then_some(Self::Plain)
    }
}

/// The number format of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// 16-bit float.
    F16,
    /// 16-bit brain float.
    BF16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// One byte a truth value.
    Bool,
}

impl Element {
    fn of_storage(kind: &str) -> Option<Self> {
        Some(match kind {
            "Float" => Self::F32,
            "Double" => Self::F64,
            "Half" => Self::F16,
            "BFloat16" => Self::BF16,
            "Long" => Self::I64,
            "Int" => Self::I32,
            "Short" => Self::I16,
            "Char" => Self::I8,
            "Byte" | "Untyped" => Self::U8,
            "Bool" => Self::Bool,
            _ => return None,
        })
    }

    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

/// A run of numbers in the archive.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    /// The entry's name under `data/`.
    pub(super) key: Rc<str>,
    pub(super) element: Element,
}

/// A tensor as a view of a storage; offset and strides in elements.
#[derive(Clone, Debug)]
pub(super) struct Strided {
    pub(super) storage: Rc<Storage>,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}
