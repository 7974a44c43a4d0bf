//! Short, stable hashes for names.

use serde::Serialize;

const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// 32-bit FNV-1a.
pub fn fnv32a(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// 32-bit FNV-1.
pub fn fnv32(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |h, b| h.wrapping_mul(0x0100_0193) ^ u32::from(b))
}

/// Writes a number with letters that spell no words.
pub fn safe(number: u32) -> String {
    number.to_string().bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// Hash of a pod template, varied by how often names made of it were taken already.
///
/// Its value need not equal upstream's: existing objects are found by comparing templates, the hash only makes names.
pub fn of_object<T: Serialize>(template: &T, collisions: Option<i32>) -> String {
    let json = serde_json::to_vec(template).unwrap_or_default();
    let salt = collisions.map(i32::to_le_bytes).into_iter().flatten();
    safe(fnv32a(json.into_iter().chain(salt)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(fnv32a(*b""), 0x811c_9dc5);
        assert_eq!(fnv32a(*b"foobar"), 0xbf9c_f968);
        assert_eq!(fnv32(*b"foobar"), 0x31f0_b262);
        assert!(safe(u32::MAX).bytes().all(|b| ALPHABET.contains(&b)));
        assert_ne!(of_object(&"a", None), of_object(&"a", Some(1)));
    }
}
