//! The stack machine of a pickle, cut down to what tensors need. It builds data; it calls nothing.

use std::{collections::HashMap, rc::Rc};

use super::{
    PickleError,
    value::{Global, Storage, Strided, Value},
};

/// Names longer than this are no tensor's.
const MAX_TEXT: usize = 1 << 20;

/// What a pickle came to: its top value, and the containers that values point into.
pub(super) struct Pickle {
    pub(super) top: Value,
    pub(super) sequences: Vec<Vec<Value>>,
    pub(super) dicts: Vec<Vec<(Value, Value)>>,
}

/// Reads one pickle.
///
/// # Errors
/// When it is damaged, or names anything outside the list in [`Global::named`].
pub(super) fn run(bytes: &[u8]) -> Result<Pickle, PickleError> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        sequences: Vec::new(),
        dicts: Vec::new(),
    };
    while !machine.step()? {}
    let top = machine.pop()?;
    Ok(Pickle {
        top,
        sequences: machine.sequences,
        dicts: machine.dicts,
    })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<usize, Value>,
    sequences: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
}

type Done = Result<(), PickleError>;

impl Machine<'_> {
    /// Runs one opcode; true at the end of the pickle.
    fn step(&mut self) -> Result<bool, PickleError> {
        match self.byte()? {
            b'.' => return Ok(true),
            0x80 => self.skip(1)?,
            0x95 => self.skip(8)?,
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => self.stack.push(self.top()?.clone()),
            op @ (b'q' | b'r' | 0x94 | b'h' | b'j') => self.remember(op)?,
            op @ (b'N' | 0x88 | 0x89 | b'G' | b'F' | b'I') => self.scalar(op)?,
            op @ (b'J' | b'K' | b'M' | 0x8a | 0x8b) => self.integer(op)?,
            op @ (b'X' | 0x8c | 0x8d | b'U' | b'T' | b'B' | b'C' | 0x8e) => self.text(op)?,
            op @ (b')' | b't' | 0x85 | 0x86 | 0x87 | b']' | b'l') => self.sequence(op)?,
            op @ (b'}' | b'd' | b's' | b'u') => self.dict(op)?,
            op @ (b'a' | b'e' | 0x90) => self.append(op)?,
            0x8f => self.stack.push(Value::Opaque),
            b'c' => self.global_line()?,
            0x93 => self.global_stack()?,
            b'Q' => self.persistent()?,
            b'R' | 0x81 => self.reduce()?,
            b'b' => self.build()?,
            op => return Err(self.damaged(format!("opcode {op:#04x} has no place in weights"))),
        }
        Ok(false)
    }

    fn remember(&mut self, op: u8) -> Done {
        let slot = match op {
            b'q' | b'h' => usize::from(self.byte()?),
            0x94 => self.memo.len(),
            _ => self.size4()?,
        };
        if matches!(op, b'h' | b'j') {
            let value = self.memo.get(&slot).cloned();
            let value = value.ok_or_else(|| self.damaged("recalls what it never stored"))?;
            self.stack.push(value);
        } else {
            let value = self.top()?.clone();
            self.memo.insert(slot, value);
        }
        Ok(())
    }

    fn scalar(&mut self, op: u8) -> Done {
        let value = match op {
            0x88 | 0x89 => Value::Bool,
            b'G' => {
                self.skip(8)?;
                Value::Opaque
            }
            b'F' | b'I' => {
                self.line()?;
                Value::Opaque
            }
            _ => Value::Opaque,
        };
        self.stack.push(value);
        Ok(())
    }

    fn integer(&mut self, op: u8) -> Done {
        let value = match op {
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            b'K' => Value::Int(i64::from(self.byte()?)),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            _ => {
                let size = if op == 0x8a {
                    usize::from(self.byte()?)
                } else {
                    self.size4()?
                };
                long(self.take(size)?)
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn text(&mut self, op: u8) -> Done {
        let size = match op {
            b'U' | b'C' | 0x8c => usize::from(self.byte()?),
            0x8d | 0x8e => {
                let size = u64::from_le_bytes(self.array()?);
                usize::try_from(size).map_err(|_| self.damaged("a text without end"))?
            }
            _ => self.size4()?,
        };
        let bytes = self.take(size)?;
        let value = match std::str::from_utf8(bytes) {
            Ok(text) if size <= MAX_TEXT => Value::Str(text.into()),
            _ => Value::Opaque,
        };
        self.stack.push(value);
        Ok(())
    }

    fn sequence(&mut self, op: u8) -> Done {
        let items = match op {
            b')' | b']' => Vec::new(),
            b't' | b'l' => self.pop_mark()?,
            op => {
                let count = usize::from(op - 0x84);
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    items.push(self.pop()?);
                }
                items.reverse();
                items
            }
        };
        self.sequences.push(items);
        self.stack.push(Value::Sequence(self.sequences.len() - 1));
        Ok(())
    }

    fn dict(&mut self, op: u8) -> Done {
        let items = match op {
            b'}' => Vec::new(),
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_mark()?,
        };
        if items.len() % 2 != 0 {
            return Err(self.damaged("a key without its value"));
        }
        let mut items = items.into_iter();
        let mut pairs = Vec::new();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            pairs.push((key, value));
        }
        if matches!(op, b'}' | b'd') {
            self.push_dict(pairs);
            return Ok(());
        }
        match *self.top()? {
            Value::Dict(at) => self.dicts[at].extend(pairs),
            Value::Opaque => {}
            _ => return Err(self.damaged("sets an item of what is no dictionary")),
        }
        Ok(())
    }

    fn push_dict(&mut self, pairs: Vec<(Value, Value)>) {
        self.dicts.push(pairs);
        self.stack.push(Value::Dict(self.dicts.len() - 1));
    }

    fn append(&mut self, op: u8) -> Done {
        let items = if op == b'a' {
            vec![self.pop()?]
        } else {
            self.pop_mark()?
        };
        match *self.top()? {
            Value::Sequence(at) => self.sequences[at].extend(items),
            Value::Opaque => {}
            _ => return Err(self.damaged("appends to what is no list")),
        }
        Ok(())
    }

    fn global_line(&mut self) -> Done {
        let module = self.line()?;
        let name = self.line()?;
        self.push_global(&module, &name)
    }

    fn global_stack(&mut self) -> Done {
        let name = self.pop()?;
        let module = self.pop()?;
        match (module, name) {
            (Value::Str(module), Value::Str(name)) => self.push_global(&module, &name),
            _ => Err(self.damaged("a name that is no text")),
        }
    }

    fn push_global(&mut self, module: &str, name: &str) -> Done {
        let global = Global::named(module, name)
            .ok_or_else(|| PickleError::Code(format!("{module}.{name}")))?;
        self.stack.push(Value::Global(global));
        Ok(())
    }

    /// `('storage', type, key, place, size)` on the stack becomes a storage.
    fn persistent(&mut self) -> Done {
        let parts = self.pop_sequence()?;
        let storage = match parts.as_slice() {
            [
                Value::Str(kind),
                Value::Global(Global::StorageType(element)),
                Value::Str(key),
                ..,
            ] if &**kind == "storage" => Storage {
                key: key.clone(),
                element: *element,
            },
            _ => return Err(self.damaged("an outside object that is no tensor's storage")),
        };
        self.stack.push(Value::Storage(Rc::new(storage)));
        Ok(())
    }

    fn reduce(&mut self) -> Done {
        let arguments = self.pop_sequence()?;
        let Value::Global(global) = self.pop()? else {
            return Err(self.damaged("calls what is no function"));
        };
        match (global, arguments.as_slice()) {
            (Global::OrderedDict, []) => self.push_dict(Vec::new()),
            (Global::Size, [value @ Value::Sequence(_)]) => self.stack.push(value.clone()),
            (Global::RebuildTensor, [storage, offset, shape, strides, ..]) => {
                let tensor = self.strided(storage, offset, shape, strides)?;
                self.stack.push(Value::Tensor(Rc::new(tensor)));
            }
            (Global::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => {
                self.stack.push(tensor.clone());
            }
            (Global::Plain, _) => self.stack.push(Value::Opaque),
            _ => return Err(self.damaged("unexpected arguments")),
        }
        Ok(())
    }

    fn strided(
        &self,
        storage: &Value,
        offset: &Value,
        shape: &Value,
        strides: &Value,
    ) -> Result<Strided, PickleError> {
        let Value::Storage(storage) = storage else {
            return Err(self.damaged("a tensor without storage"));
        };
        Ok(Strided {
            storage: storage.clone(),
            offset: self.natural(offset)?,
            shape: self.naturals(shape)?,
            strides: self.naturals(strides)?,
        })
    }

    fn natural(&self, value: &Value) -> Result<usize, PickleError> {
        match value {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        }
        .ok_or_else(|| self.damaged("a tensor's size is no count"))
    }

    fn naturals(&self, value: &Value) -> Result<Vec<usize>, PickleError> {
        const MAX_RANK: usize = 16;
        match value {
            Value::Sequence(at) if self.sequences[*at].len() <= MAX_RANK => {
                let numbers = self.sequences[*at].iter();
                numbers.map(|number| self.natural(number)).collect()
            }
            _ => Err(self.damaged("a tensor's shape is no short list")),
        }
    }

    /// Attributes (`_metadata` of a state dict) are dropped: nothing here has any.
    fn build(&mut self) -> Done {
        self.pop()?;
        match self.top()? {
            Value::Dict(_) | Value::Tensor(_) | Value::Opaque => Ok(()),
            _ => Err(self.damaged("sets the state of what has none")),
        }
    }

    fn pop_sequence(&mut self) -> Result<Vec<Value>, PickleError> {
        match self.pop()? {
            // A copy: the same tuple may be recalled. Longer than any call needs is damage.
            Value::Sequence(at) if self.sequences[at].len() <= 16 => Ok(self.sequences[at].clone()),
            _ => Err(self.damaged("arguments that are no short tuple")),
        }
    }

    fn top(&self) -> Result<&Value, PickleError> {
        self.stack
            .last()
            .ok_or_else(|| self.damaged("reads an empty stack"))
    }

    fn pop(&mut self) -> Result<Value, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.damaged("takes from an empty stack"));
        }
        self.stack
            .pop()
            .ok_or_else(|| self.damaged("takes from an empty stack"))
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, PickleError> {
        let mark = self.marks.pop();
        let mark = mark.ok_or_else(|| self.damaged("closes a group that it never opened"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn size4(&mut self) -> Result<usize, PickleError> {
        let size = u32::from_le_bytes(self.array()?);
        usize::try_from(size).map_err(|_| self.damaged("a size beyond memory"))
    }

    fn skip(&mut self, size: usize) -> Done {
        self.take(size).map(drop)
    }

    fn take(&mut self, size: usize) -> Result<&[u8], PickleError> {
        let end = self.at.checked_add(size);
        let Some(slice) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            return Err(self.damaged("cut short"));
        };
        self.at += size;
        Ok(slice)
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = &self.bytes[self.at..];
        let size = rest.iter().take(1024).position(|&byte| byte == b'\n');
        let size = size.ok_or_else(|| self.damaged("a line without end"))?;
        let line = String::from_utf8_lossy(&rest[..size]).into_owned();
        self.at += size + 1;
        Ok(line)
    }

    fn damaged(&self, what: impl Into<String>) -> PickleError {
        PickleError::Damaged {
            at: self.at,
            what: what.into(),
        }
    }
}

/// A little-endian integer of any length; beyond 64 bits it is no size of a tensor.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Opaque;
    }
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(wide))
}
