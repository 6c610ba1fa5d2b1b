package pack

// DeltaHead is the header of an entry that is a delta.
type DeltaHead struct {
	Size int64 // of the inflated delta, not of what it makes
	Back int64 // how many bytes before this entry its base begins; 0: Base says which it is
	Base ID
	Len  int // bytes of the header; the zlib stream follows
}

// ParseDelta reads the header of the delta at the front of b. It is for those who hand
// entries on as they are stored. ok is false for a whole object, and for what is no entry.
func ParseDelta(b []byte) (h DeltaHead, ok bool) {
	kind, size, n, err := parseHeader(b)
	if err != nil || kind < ofsDelta {
		return h, false
	}
	h = DeltaHead{Size: size, Len: n}
	if kind == refDelta {
		h.Base, _, ok = CutID(b[n:])
		h.Len += idSize
		return h, ok
	}
	back, m, err := parseBack(b[n:])
	h.Back, h.Len = back, h.Len+m
	return h, err == nil
}

// AppendDelta appends the header of a delta of size bytes whose base is given by id. So a
// delta can stand anywhere in a pack that has its base, and needs no other change.
func AppendDelta(dst []byte, size int64, base ID) []byte {
	return base.AppendBytes(appendHeader(dst, refDelta, int(size)))
}
