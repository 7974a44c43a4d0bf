//! Steps through the fields of one message.

use super::WireError;

/// A field's payload.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    buf: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(buf: &'a [u8]) -> Self {
        Self { buf, pos: 0 }
    }

    pub fn pos(&self) -> usize {
        self.pos
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u64, WireError> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let b = *self.buf.get(self.pos).ok_or(WireError::Truncated)?;
            self.pos += 1;
            n |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Ok(n);
            }
        }
        Err(WireError::Overflow)
    }

    pub fn at_end(&self) -> bool {
        self.pos >= self.buf.len()
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let end = self.pos.checked_add(len).filter(|e| *e <= self.buf.len()).ok_or(WireError::Truncated)?;
        let b = &self.buf[self.pos..end];
        self.pos = end;
        Ok(b)
    }

    /// The next field's number and payload; `None` at the end.
    #[inline]
    pub fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, WireError> {
        if self.at_end() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).ok().filter(|t| (1..=0x1fff_ffff).contains(t));
        let tag = tag.ok_or(WireError::IllegalTag(key))?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let mut b = [0; 8];
                b.copy_from_slice(self.take(8)?);
                Wire::Fixed64(u64::from_le_bytes(b))
            }
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
                Wire::Bytes(self.take(len)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return Err(WireError::IllegalTag(key)),
        };
        Ok(Some((tag, wire)))
    }

    /// The number of the next field, without passing over it.
    pub fn peek_tag(&self) -> Result<Option<u32>, WireError> {
        if self.at_end() {
            return Ok(None);
        }
        let mut ahead = self.clone();
        let key = ahead.varint()?;
        Ok(u32::try_from(key >> 3).ok())
    }
}

impl<'a> Wire<'a> {
    pub fn bytes(self, field: &'static str) -> Result<&'a [u8], WireError> {
        match self {
            Self::Bytes(b) => Ok(b),
            _ => Err(WireError::WireType(field)),
        }
    }

    pub fn int(self, field: &'static str) -> Result<i64, WireError> {
        match self {
            Self::Varint(n) => Ok(n as i64),
            _ => Err(WireError::WireType(field)),
        }
    }
}
