//! Byte layout helpers shared by commands, records and log frames: LEB128 integers and length-prefixed strings.

/// Bytes that do not have the expected layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Appends an integer, seven bits to a byte.
pub fn put_int(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, b: &[u8]) {
    put_int(out, b.len() as u64);
    out.extend_from_slice(b);
}

/// Reads what the `put_` functions wrote.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let b = *self.bytes.get(self.at).ok_or(Malformed)?;
        self.at += 1;
        Ok(b)
    }

    pub fn int(&mut self) -> Result<u64, Malformed> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            v |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Ok(v);
            }
        }
        Err(Malformed)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let n = usize::try_from(self.int()?).map_err(|_| Malformed)?;
        let end = self.at.checked_add(n).ok_or(Malformed)?;
        let b = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(b)
    }

    pub fn str(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    /// Everything not yet read.
    pub fn rest(&mut self) -> &'a [u8] {
        let b = &self.bytes[self.at.min(self.bytes.len())..];
        self.at = self.bytes.len();
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_strings_come_back() {
        let mut out = Vec::new();
        let ints = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX];
        for v in ints {
            put_int(&mut out, v);
        }
        put_bytes(&mut out, b"key");
        let mut r = Reader::new(&out);
        for v in ints {
            assert_eq!(r.int(), Ok(v));
        }
        assert_eq!(r.str(), Ok("key"));
        assert!(r.is_empty());
        assert_eq!(r.byte(), Err(Malformed));
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        let mut out = Vec::new();
        put_int(&mut out, u64::MAX);
        assert_eq!(Reader::new(&out).bytes(), Err(Malformed));
        assert_eq!(Reader::new(&[0x80; 11]).int(), Err(Malformed));
    }
}
