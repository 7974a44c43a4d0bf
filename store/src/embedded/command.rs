//! What goes through the raft log: commands, many to an entry. Everything a member needs to apply one is inside (also
//! the time), so that applying is the same on every member and every replay.

use bytes::Bytes;

use super::codec::{Malformed, Reader, put_bytes, put_int};
use crate::Revision;

const VERSION: u8 = 1;

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Compare `key`'s revision with `expected`, then put. `expiry`: Unix seconds, zero for never.
    Put {
        key: String,
        expected: Revision,
        value: Bytes,
        expiry: u64,
    },
    Delete {
        key: String,
        expected: Revision,
    },
    /// Moves the fence below which history is forgotten.
    Compact {
        revision: Revision,
    },
    /// Deletes at most `limit` keys whose expiry is not after `now`.
    Expire {
        now: u64,
        limit: u64,
    },
    /// The leader's digest after the entry `index`: a member with another one must stop.
    Check {
        index: u64,
        chain: u64,
    },
}

/// Encodes an entry's payload.
pub fn encode(commands: &[Command]) -> Vec<u8> {
    let size: usize = commands
        .iter()
        .map(|c| match c {
            Command::Put { key, value, .. } => key.len() + value.len() + 32,
            Command::Delete { key, .. } => key.len() + 16,
            Command::Compact { .. } | Command::Expire { .. } | Command::Check { .. } => 24,
        })
        .sum();
    let mut out = Vec::with_capacity(size + 8);
    out.push(VERSION);
    put_int(&mut out, commands.len() as u64);
    for c in commands {
        match c {
            Command::Put { key, expected, value, expiry } => {
                out.push(1);
                put_bytes(&mut out, key.as_bytes());
                put_int(&mut out, *expected);
                put_int(&mut out, *expiry);
                put_bytes(&mut out, value);
            }
            Command::Delete { key, expected } => {
                out.push(2);
                put_bytes(&mut out, key.as_bytes());
                put_int(&mut out, *expected);
            }
            Command::Compact { revision } => {
                out.push(3);
                put_int(&mut out, *revision);
            }
            Command::Expire { now, limit } => {
                out.push(4);
                put_int(&mut out, *now);
                put_int(&mut out, *limit);
            }
            Command::Check { index, chain } => {
                out.push(5);
                put_int(&mut out, *index);
                put_int(&mut out, *chain);
            }
        }
    }
    out
}

/// Decodes an entry's payload; values share its memory.
pub fn decode(payload: &Bytes) -> Result<Vec<Command>, Malformed> {
    let mut r = Reader::new(payload);
    if r.byte()? != VERSION {
        return Err(Malformed);
    }
    let n = r.int()?;
    let mut commands = Vec::new();
    for _ in 0..n {
        commands.push(match r.byte()? {
            1 => {
                let key = r.str()?.to_owned();
                let (expected, expiry) = (r.int()?, r.int()?);
                let value = payload.slice_ref(r.bytes()?);
                Command::Put { key, expected, value, expiry }
            }
            2 => Command::Delete { key: r.str()?.to_owned(), expected: r.int()? },
            3 => Command::Compact { revision: r.int()? },
            4 => Command::Expire { now: r.int()?, limit: r.int()? },
            5 => Command::Check { index: r.int()?, chain: r.int()? },
            _ => return Err(Malformed),
        });
    }
    if r.is_empty() { Ok(commands) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_back() {
        let commands = vec![
            Command::Put {
                key: "/registry/a".into(),
                expected: 7,
                value: Bytes::from_static(b"v"),
                expiry: 99,
            },
            Command::Delete { key: "/registry/b".into(), expected: u64::MAX },
            Command::Compact { revision: 12 },
            Command::Expire { now: 1_700_000_000, limit: 500 },
            Command::Check { index: 7, chain: u64::MAX },
        ];
        let bytes = Bytes::from(encode(&commands));
        assert_eq!(decode(&bytes), Ok(commands));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes.slice(..cut)), Err(Malformed), "cut at {cut}");
        }
    }
}
