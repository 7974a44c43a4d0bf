//! Indents JSON text without decoding it, as Go's `json.Indent` does with two spaces.

/// `json` spread over lines.
pub fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut open = false; // an object or list was opened and nothing written in it yet
    for &b in json {
        if in_string {
            out.push(b);
            if escaped {
                escaped = false;
            } else if b == b'\\' {
                escaped = true;
            } else if b == b'"' {
                in_string = false;
            }
            continue;
        }
        if b.is_ascii_whitespace() {
            continue;
        }
        if open && b != b'}' && b != b']' {
            depth += 1;
            newline(&mut out, depth);
            open = false;
        }
        match b {
            b'"' => {
                in_string = true;
                out.push(b);
            }
            b'{' | b'[' => {
                open = true;
                out.push(b);
            }
            b'}' | b']' => {
                if open {
                    open = false;
                } else {
                    depth = depth.saturating_sub(1);
                    newline(&mut out, depth);
                }
                out.push(b);
            }
            b',' => {
                out.push(b);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            _ => out.push(b),
        }
    }
    out
}

fn newline(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    for _ in 0..depth {
        out.extend_from_slice(b"  ");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn indents() {
        let got = super::indent(br#"{"a":{},"b":[1,{"c":"x\"{,"}],"d":[]}"#);
        let want = "{\n  \"a\": {},\n  \"b\": [\n    1,\n    {\n      \"c\": \"x\\\"{,\"\n    }\n  ],\n  \"d\": []\n}";
        assert_eq!(String::from_utf8_lossy(&got), want);
    }
}
