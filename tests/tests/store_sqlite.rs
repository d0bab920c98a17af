//! The store suite on SQLite.
