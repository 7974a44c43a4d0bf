//! `--token-auth-file`: static tokens, one CSV line each: token, user, uid and optionally groups in one column.

use std::collections::HashMap;

use crate::request::UserInfo;

/// The tokens of a file.
#[derive(Debug)]
pub struct TokenFile {
    tokens: HashMap<String, UserInfo>,
}

impl TokenFile {
    /// Reads the file's contents.
    pub fn parse(contents: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(contents).map_err(|e| format!("--token-auth-file: not UTF-8: {e}"))?;
        let mut tokens = HashMap::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let columns = csv(line);
            let number = i + 1;
            if columns.len() < 3 {
                return Err(format!(
                    "--token-auth-file: line {number} has {} columns; token, user and uid are needed",
                    columns.len()
                ));
            }
            if columns[0].is_empty() {
                tracing::warn!(
                    line = number,
                    "the token file has a line with an empty token; it is left out"
                );
                continue;
            }
            let groups = columns
                .get(3)
                .map(|g| g.split(',').map(|g| g.trim().to_owned()).filter(|g| !g.is_empty()).collect())
                .unwrap_or_default();
            let user =
                UserInfo { name: columns[1].clone(), uid: columns[2].clone(), groups, ..UserInfo::default() };
            if tokens.insert(columns[0].clone(), user).is_some() {
                tracing::warn!(
                    line = number,
                    "a token stands twice in the token file; the later line counts"
                );
            }
        }
        Ok(Self { tokens })
    }

    pub fn lookup(&self, token: &str) -> Option<UserInfo> {
        self.tokens.get(token).cloned()
    }
}

/// The columns of a line; quotes hold commas, two quotes are one.
fn csv(line: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                if let Some(last) = out.last_mut() {
                    last.push('"');
                }
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(String::new()),
            c => {
                if let Some(last) = out.last_mut()
                    && (quoted || !last.is_empty() || !c.is_whitespace())
                {
                    last.push(c);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let f = TokenFile::parse(b"# comment\nt1,alice,1\nt2, bob,2,\"dev,ops\"\n").unwrap();
        assert_eq!(f.lookup("t1").unwrap().name, "alice");
        let bob = f.lookup("t2").unwrap();
        assert_eq!((bob.name.as_str(), bob.groups), ("bob", vec!["dev".to_owned(), "ops".to_owned()]));
        assert!(f.lookup("t3").is_none());
        assert!(TokenFile::parse(b"t1,alice\n").is_err());
    }
}
