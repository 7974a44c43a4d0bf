//! Numbers that may be percentages.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The absolute number that `value` stands for out of `total`; `None` when it is no number and no percentage.
pub fn scaled(value: &IntOrString, total: i32, round_up: bool) -> Option<i32> {
    match value {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(s) => {
            let percent: i64 = s.strip_suffix('%')?.parse().ok()?;
            let product = percent * i64::from(total);
            let quotient = if round_up {
                product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0)
            } else {
                product.div_euclid(100)
            };
            i32::try_from(quotient).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let p = IntOrString::String("25%".into());
        assert_eq!(scaled(&p, 10, true), Some(3));
        assert_eq!(scaled(&p, 10, false), Some(2));
        assert_eq!(scaled(&IntOrString::Int(4), 10, true), Some(4));
        assert_eq!(scaled(&IntOrString::String("x".into()), 10, true), None);
    }
}
