//! SDS tests.
