//! The fast operations, forward and backward, as candle custom ops.
