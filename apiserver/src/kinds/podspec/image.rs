//! Image references: which of them mean "whatever is newest".

/// True if the reference names the tag `latest` or neither tag nor digest.
pub fn is_latest(reference: &str) -> bool {
    if reference.contains('@') {
        return false;
    }
    // A colon before the last slash belongs to the registry's port.
    let last = reference.rsplit('/').next().unwrap_or(reference);
    match last.split_once(':') {
        None => !reference.is_empty(),
        Some((_, tag)) => tag == "latest",
    }
}

#[cfg(test)]
mod tests {
    use super::is_latest;

    #[test]
    fn tags() {
        for (image, want) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.2", false),
            ("host:5000/nginx", true),
            ("host:5000/nginx:2", false),
            ("nginx@sha256:aa", false),
            ("nginx:latest@sha256:aa", false),
        ] {
            assert_eq!(is_latest(image), want, "{image}");
        }
    }
}
