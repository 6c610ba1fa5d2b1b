package pack

// A delta is two lengths, of the base and of the result, seven bits a byte with
// the lowest first, and then instructions:
//
//	1ooossss …   copy: the set bits among the seven say which bytes of the
//	             offset (o, four of them) and of the length (s, three) follow,
//	             lowest first; a length of 0 means 65536
//	0nnnnnnn …   insert the n bytes that follow; n = 0 is an error

// deltaLengths reads the two lengths at the front of a delta.
func deltaLengths(d []byte) (base, result int64, n int, err error) {
	base, n, err = deltaVarint(d, 0)
	if err != nil {
		return 0, 0, n, err
	}
	result, n, err = deltaVarint(d, n)
	return base, result, n, err
}

func deltaVarint(d []byte, at int) (v int64, n int, err error) {
	n = at
	for shift := 0; ; shift += 7 {
		if n == len(d) {
			return 0, n, corrupt(n, "delta is cut short")
		}
		c := d[n]
		if n++; n-at > maxVarint || shift == 63 && c != 0 {
			return 0, n, corrupt(at, "delta length above 2^63-1")
		}
		v |= int64(c&0x7f) << shift
		if c&0x80 == 0 {
			return v, n, nil
		}
	}
}

// deltaSize checks a delta against its base as far as that can be done without
// doing it, and returns the size of the result, which is known to be what the
// instructions make: so the caller may allocate it.
func deltaSize(delta []byte, baseLen int) (int64, error) {
	base, result, at, err := deltaLengths(delta)
	if err != nil {
		return 0, err
	}
	if base != int64(baseLen) {
		return 0, corrupt(0, "delta is for a base of another size")
	}
	made := int64(0)
	for at < len(delta) {
		off, n, next, err := deltaOp(delta, at)
		if err != nil {
			return 0, err
		}
		if off >= 0 && off+n > baseLen {
			return 0, corrupt(at, "delta copies past the end of its base")
		}
		made += int64(n)
		at = next
	}
	if made != result {
		return 0, corrupt(0, "delta makes another size than it declares")
	}
	return result, nil
}

// deltaOp reads the instruction at at: a copy of n bytes at off of the base,
// or, if off is -1, an insertion of the n bytes before next.
func deltaOp(delta []byte, at int) (off, n, next int, err error) {
	c := delta[at]
	next = at + 1
	if c&0x80 == 0 {
		if c == 0 {
			return 0, 0, 0, corrupt(at, "reserved delta instruction")
		}
		n = int(c)
		if n > len(delta)-next {
			return 0, 0, 0, corrupt(at, "delta is cut short")
		}
		return -1, n, next + n, nil
	}
	for i := range 7 {
		if c>>i&1 == 0 {
			continue
		}
		if next == len(delta) {
			return 0, 0, 0, corrupt(at, "delta is cut short")
		}
		if i < 4 {
			off |= int(delta[next]) << (8 * i)
		} else {
			n |= int(delta[next]) << (8 * (i - 4))
		}
		next++
	}
	if n == 0 {
		n = 1 << 16
	}
	return off, n, next, nil
}

// applyDelta appends to dst what a delta, which deltaSize has passed, makes of
// its base.
func applyDelta(dst, base, delta []byte) []byte {
	_, _, at, _ := deltaLengths(delta)
	for at < len(delta) {
		off, n, next, _ := deltaOp(delta, at)
		if off < 0 {
			dst = append(dst, delta[next-n:next]...)
		} else {
			dst = append(dst, base[off:off+n]...)
		}
		at = next
	}
	return dst
}
