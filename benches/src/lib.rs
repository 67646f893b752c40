//! Criterion suites; see `benches/benches`.
