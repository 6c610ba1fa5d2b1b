package pack

import (
	"bytes"
	"testing"
)

func TestDeltaHead(t *testing.T) {
	base := Sum(Blob, []byte("base"))
	for _, size := range []int64{0, 15, 16, 1 << 20, 1<<63 - 1} {
		b := AppendDelta([]byte("x"), size, base)[1:]
		h, ok := ParseDelta(append(b, "zlib"...))
		if want := (DeltaHead{Size: size, Base: base, Len: len(b)}); !ok || h != want {
			t.Errorf("%d: %+v, %v", size, h, ok)
		}
		for n := range b {
			if _, ok := ParseDelta(b[:n]); ok {
				t.Errorf("%d: %d bytes of %d are a header", size, n, len(b))
			}
		}
	}
	for _, x := range []struct {
		entry string
		want  DeltaHead
	}{
		{"\x65\x01", DeltaHead{Size: 5, Back: 1, Len: 2}},
		{"\xe5\x01\x80\x00", DeltaHead{Size: 21, Back: 128, Len: 4}}, // the package doc's 80 00
		{"\x65\xff\x7f", DeltaHead{Size: 5, Back: 16511, Len: 3}},
	} {
		if h, ok := ParseDelta([]byte(x.entry)); !ok || h != x.want {
			t.Errorf("%x: %+v, %v", x.entry, h, ok)
		}
	}
	for _, bad := range []string{"", "\x35\x01", "\x05", "\x55\x01", "\x65", "\x65\x00", "\x65\x80", "\x75" + string(bytes.Repeat([]byte{1}, 19)), "\xe5", "\x65" + string(bytes.Repeat([]byte{0xff}, 20))} {
		if h, ok := ParseDelta([]byte(bad)); ok {
			t.Errorf("%x is a delta: %+v", bad, h)
		}
	}
}
