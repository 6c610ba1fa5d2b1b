package pack

// incompressible guesses from a few samples whether deflate cannot gain
// anything on b.
func incompressible(b []byte) bool { return false }
