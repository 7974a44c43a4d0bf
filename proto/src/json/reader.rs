//! The JSON tokenizer: finds the same syntax errors as upstream's scanner and words them the same way.

use std::borrow::Cow;

/// Not JSON.
pub(super) type Syntax = String;

/// Nesting beyond this is refused, whoever sends it. What is taken must be readable wherever it goes: the library that
/// reads stored custom resources and answers of webhooks, which have an envelope around them, refuses more than 127.
pub const MAX_DEPTH: usize = 120;

pub(super) struct Reader<'a> {
    pub data: &'a [u8],
    pub pos: usize,
    pub depth: usize,
}

/// `c` quoted as upstream's scanner does.
fn quote_char(c: u8) -> String {
    match c {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        b'\\' => r"'\\'".into(),
        0x07 => r"'\a'".into(),
        0x08 => r"'\b'".into(),
        0x0b => r"'\v'".into(),
        0x0c => r"'\f'".into(),
        0x20..0x7f => format!("'{}'", c as char),
        0x00..0x20 | 0x7f => format!("'\\x{c:02x}'"),
        0x80..=0xa0 | 0xad => format!("'\\u{:04x}'", u32::from(c)),
        _ => format!("'{}'", c as char),
    }
}

impl<'a> Reader<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, pos: 0, depth: 0 }
    }

    pub fn peek(&self) -> Option<u8> {
        self.data.get(self.pos).copied()
    }

    pub fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.pos += 1;
        }
    }

    pub fn fail<T>(&self, context: &str) -> Result<T, Syntax> {
        Err(match self.peek() {
            None => "unexpected end of JSON input".into(),
            Some(c) => format!("invalid character {} {context}", quote_char(c)),
        })
    }

    pub fn enter(&mut self) -> Result<(), Syntax> {
        self.depth += 1;
        self.pos += 1;
        if self.depth > MAX_DEPTH { Err("exceeded max depth".into()) } else { Ok(()) }
    }

    pub fn leave(&mut self) {
        self.depth -= 1;
        self.pos += 1;
    }

    /// Nothing but space may follow.
    pub fn end(&mut self) -> Result<(), Syntax> {
        self.skip_space();
        if self.pos < self.data.len() { self.fail("after top-level value") } else { Ok(()) }
    }

    /// After `{` or a `,`: the next key, or `None` at the closing brace (which is consumed).
    pub fn next_key(&mut self, first: bool) -> Result<Option<Cow<'a, str>>, Syntax> {
        self.skip_space();
        if first {
            if self.peek() == Some(b'}') {
                self.leave();
                return Ok(None);
            }
        } else {
            match self.peek() {
                Some(b',') => {
                    self.pos += 1;
                    self.skip_space();
                }
                Some(b'}') => {
                    self.leave();
                    return Ok(None);
                }
                _ => return self.fail("after object key:value pair"),
            }
        }
        if self.peek() != Some(b'"') {
            return self.fail("looking for beginning of object key string");
        }
        let key = self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return self.fail("after object key");
        }
        self.pos += 1;
        self.skip_space();
        Ok(Some(key))
    }

    /// After `[` or an element: whether another follows; the closing bracket is consumed.
    pub fn next_element(&mut self, first: bool) -> Result<bool, Syntax> {
        self.skip_space();
        match self.peek() {
            Some(b']') => {
                self.leave();
                Ok(false)
            }
            _ if first => Ok(true),
            Some(b',') => {
                self.pos += 1;
                self.skip_space();
                Ok(true)
            }
            _ => self.fail("after array element"),
        }
    }

    /// A string, its opening quote being next.
    pub fn string(&mut self) -> Result<Cow<'a, str>, Syntax> {
        self.pos += 1;
        let start = self.pos;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let raw = &self.data[start..self.pos];
                    self.pos += 1;
                    return Ok(String::from_utf8_lossy(raw));
                }
                Some(b'\\') => break,
                Some(0x20..) => self.pos += 1,
                _ => return self.fail("in string literal"),
            }
        }
        let mut out = self.data[start..self.pos].to_vec();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.pos += 1;
                    return Ok(Cow::Owned(match String::from_utf8(out) {
                        Ok(s) => s,
                        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
                    }));
                }
                Some(b'\\') => {
                    self.pos += 1;
                    let plain = match self.peek() {
                        Some(c @ (b'"' | b'\\' | b'/')) => c,
                        Some(b'b') => 8,
                        Some(b'f') => 12,
                        Some(b'n') => b'\n',
                        Some(b'r') => b'\r',
                        Some(b't') => b'\t',
                        Some(b'u') => {
                            self.pos += 1;
                            let c = self.unicode()?;
                            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                            continue;
                        }
                        _ => return self.fail("in string escape code"),
                    };
                    self.pos += 1;
                    out.push(plain);
                }
                Some(c @ 0x20..) => {
                    out.push(c);
                    self.pos += 1;
                }
                _ => return self.fail("in string literal"),
            }
        }
    }

    fn hex4(&mut self) -> Result<u32, Syntax> {
        let mut n = 0;
        for _ in 0..4 {
            match self.peek().and_then(|c| (c as char).to_digit(16)) {
                Some(d) => n = n * 16 + d,
                None => return self.fail("in \\u hexadecimal character escape"),
            }
            self.pos += 1;
        }
        Ok(n)
    }

    /// The four digits are next; a surrogate without its other half reads as the replacement character.
    fn unicode(&mut self) -> Result<char, Syntax> {
        let a = self.hex4()?;
        if (0xd800..0xdc00).contains(&a) && self.data[self.pos..].starts_with(b"\\u") {
            let back = self.pos;
            self.pos += 2;
            let b = self.hex4()?;
            if (0xdc00..0xe000).contains(&b) {
                let c = 0x10000 + ((a - 0xd800) << 10) + (b - 0xdc00);
                return Ok(char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.pos = back;
        }
        Ok(char::from_u32(a).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    /// A number, whose first character is next.
    pub fn number(&mut self) -> Result<&'a str, Syntax> {
        let start = self.pos;
        if self.peek() == Some(b'-') {
            self.pos += 1;
        }
        match self.peek() {
            Some(b'0') => self.pos += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.fail("in numeric literal"),
        }
        if self.peek() == Some(b'.') {
            self.pos += 1;
            if !self.peek().is_some_and(|c| c.is_ascii_digit()) {
                return self.fail("after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.pos += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.pos += 1;
            }
            if !self.peek().is_some_and(|c| c.is_ascii_digit()) {
                return self.fail("in exponent of numeric literal");
            }
            self.digits();
        }
        // Only ASCII was passed over.
        Ok(std::str::from_utf8(&self.data[start..self.pos]).unwrap_or("0"))
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.pos += 1;
        }
    }

    /// `true`, `false` or `null`, whose first character is next.
    pub fn word(&mut self, word: &str) -> Result<(), Syntax> {
        for (i, c) in word.bytes().enumerate() {
            if self.peek() != Some(c) {
                return self
                    .fail(&format!("in literal {word} (expecting {})", quote_char(word.as_bytes()[i])));
            }
            self.pos += 1;
        }
        Ok(())
    }

    /// Passes over one value, checking its syntax.
    pub fn skip(&mut self) -> Result<(), Syntax> {
        match self.peek() {
            Some(b'{') => {
                self.enter()?;
                let mut first = true;
                while self.next_key(first)?.is_some() {
                    first = false;
                    self.skip()?;
                }
                Ok(())
            }
            Some(b'[') => {
                self.enter()?;
                let mut first = true;
                while self.next_element(first)? {
                    first = false;
                    self.skip()?;
                }
                Ok(())
            }
            Some(b'"') => self.string().map(drop),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            Some(b'-' | b'0'..=b'9') => self.number().map(drop),
            _ => self.fail("looking for beginning of value"),
        }
    }
}
