//! What figures are made of.

use std::time::Instant;

/// Prints one figure.
pub fn line(name: &str, value: f64, unit: &str) {
    // Small values keep the digits that tell them apart.
    let digits = if value.abs() < 10.0 { 3 } else { 1 };
    println!("{name} {value:.digits$} {unit}");
}

/// Milliseconds since then.
pub fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The middle of the values.
pub fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value that a share `q` of the values does not exceed; 0 if there are none.
pub fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * q) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(0.0)
}
