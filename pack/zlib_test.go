package pack

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// zlibScript speaks for zlib itself, which git and bup are linked with. It has
// two commands, and answers on standard output.
const zlibScript = `
import sys, zlib, struct, random
out = sys.stdout.buffer
if sys.argv[1] == "make":
    # Streams of every strategy, with windows and memories that make short blocks.
    texts = [b"", b"kedge", b"kedge saves trees " * 40, bytes(range(256)) * 3, bytes(3000)]
    rnd = random.Random(4)
    texts.append(bytes(int(rnd.expovariate(0.05)) & 255 for _ in range(2500)))
    for text in texts:
        for level in (0, 1, 6, 9):
            for strategy in range(5):
                for bits, memory in ((15, 8), (9, 1)):
                    z = zlib.compressobj(level, zlib.DEFLATED, bits, memory, strategy)
                    s = z.compress(text[:len(text)//2])
                    if memory == 1:
                        s += z.flush(zlib.Z_SYNC_FLUSH)
                    s += z.compress(text[len(text)//2:]) + z.flush()
                    out.write(struct.pack("<I", len(s)) + s)
else:
    # For each stream, how many bytes it holds and takes, and their CRC; or not.
    src = sys.stdin.buffer
    while head := src.read(4):
        s = src.read(struct.unpack("<I", head)[0])
        z = zlib.decompressobj()
        try:
            body = z.decompress(s)
            ok = z.eof
        except zlib.error:
            ok = False
        if ok:
            out.write(struct.pack("<III", len(body), len(s) - len(z.unused_data), zlib.crc32(body)))
        else:
            out.write(b"\xff" * 12)
`

// zlibCommand returns a command of zlibScript.
func zlibCommand(t testing.TB, command string) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("python3, which has zlib, is not installed")
	}
	script := filepath.Join(t.TempDir(), "zlib.py")
	if err := os.WriteFile(script, []byte(zlibScript), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "python3", script, command)
	cmd.Stderr = os.Stderr
	return cmd
}

// zlibAnswer is what zlib says of one stream.
type zlibAnswer struct{ Size, Took, CRC uint32 }

const refused = 1<<32 - 1 // the size of a stream that zlib does not accept

// askZlib lets zlib read the streams that write puts, and returns its answers,
// one for each.
func askZlib(t testing.TB, write func(put func(stream []byte))) []zlibAnswer {
	t.Helper()
	cmd := zlibCommand(t, "check")
	var b bytes.Buffer
	cmd.Stdout = &b
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriterSize(in, 1<<20)
	n := 0
	write(func(stream []byte) {
		n++
		// What cannot be written is found by Flush.
		_, _ = w.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(stream))))
		_, _ = w.Write(stream)
	})
	for _, f := range []func() error{w.Flush, in.Close, cmd.Wait} {
		if err := f(); err != nil {
			t.Fatal("zlib: ", err)
		}
	}
	answers := make([]zlibAnswer, n)
	if err := binary.Read(&b, binary.LittleEndian, answers); err != nil || b.Len() > 0 {
		t.Fatalf("answers to %d streams: %v, and %d bytes more", n, err, b.Len())
	}
	return answers
}

// zlibsStreams returns streams that zlib makes.
func zlibsStreams(t testing.TB) (all [][]byte) {
	b, err := zlibCommand(t, "make").Output()
	if err != nil {
		t.Fatal("zlib: ", err)
	}
	for len(b) > 0 {
		n := binary.LittleEndian.Uint32(b)
		all = append(all, b[4:4+n])
		b = b[4+n:]
	}
	return all
}

// TestInflateLikeZlib gives streams, most of them wrong, to zlib and to us. There
// are no exceptions: what zlib accepts we do, and make the same of it, and what it
// refuses we refuse.
func TestInflateLikeZlib(t *testing.T) {
	n := min(*inflationsFlag, 1_000_000)
	m := newStreamMaker(t, 99)
	std := standard{buf: make([]byte, 1<<16)}
	var streams [][]byte
	for range n {
		src := bytes.Clone(m.next())
		// The checksum of most would be wrong, which hides all else.
		if out, n, err := std.run(src); err != nil && n >= 4 && len(out) > 0 {
			binary.BigEndian.PutUint32(src[n-4:], adler32(out))
		}
		streams = append(streams, src)
	}
	answers := askZlib(t, func(put func([]byte)) {
		for _, src := range streams {
			put(src)
		}
	})
	var z inflater
	right := 0
	for i, src := range streams {
		want := answers[i]
		if want.Size == refused {
			for _, size := range []int{0, 100, 1 << 16} {
				if _, err := z.run(make([]byte, size), src); err == nil {
					t.Fatalf("stream %x: accepted as %d bytes, zlib refuses it", src, size)
				}
			}
			continue
		}
		right++
		dst := make([]byte, want.Size)
		took, err := z.run(dst, src)
		if err != nil || uint32(took) != want.Took || crc32.ChecksumIEEE(dst) != want.CRC {
			t.Fatalf("stream %x: took %d bytes, not %d, for %d, or made others: %v", src, took, want.Took, want.Size, err)
		}
	}
	t.Logf("%d streams, zlib accepts %d", n, right)
	if right < n/10 || right > n*9/10 {
		t.Errorf("of %d streams zlib accepts %d: one outcome is too rare", n, right)
	}
}

// TestReadersSweep lets zlib, the standard library, klauspost and our reader read
// what the encoder makes of every length from 0 to 64 KiB and a bit (of one in
// 29, if KEDGE_SWEEP is not "full").
func TestReadersSweep(t *testing.T) {
	text := sqlText(1<<16 + 20)
	rnd := rand.New(rand.NewPCG(21, 22))
	for i := 0; i < len(text); i += rnd.IntN(3000) { // noise here and there
		copy(text[i:], noise(rnd.IntN(400)))
	}
	step := 29
	switch {
	case testing.Short():
		step = 173
	case os.Getenv("KEDGE_SWEEP") == "full":
		step = 1
	}
	var f inflaters
	var sums []uint32
	answers := askZlib(t, func(put func([]byte)) {
		d := newDeflater(1)
		var buf []byte
		for n := 0; n <= len(text); n += step {
			body := text[len(text)-n:]
			if n%2 == 0 {
				body = text[:n]
			}
			z := zip(t, &d, &buf, body)
			f.check(t, z, body)
			sums = append(sums, crc32.ChecksumIEEE(body))
			put(z)
		}
	})
	for i, a := range answers {
		if int(a.Size) != i*step || a.CRC != sums[i] {
			t.Errorf("%d bytes: zlib makes %d others", i*step, a.Size)
		}
	}
}

// TestReadersOfBadCodes writes bodies of one histogram in the codes of another, for
// all of the bad ones, as happens where contents change within a save.
func TestReadersOfBadCodes(t *testing.T) {
	hs := histograms()
	var f inflaters
	var sums []uint32
	answers := askZlib(t, func(put func([]byte)) {
		b := make([]byte, 64<<10)
		for _, h := range hs {
			c := new(codes)
			c.build(h)
			for _, of := range hs {
				body := drawn(of, 6000)
				m := new(matcher)
				m.find(body)
				w := wordWriter{b: b, p: copy(b, []byte{0x78, 0x01}), limit: len(b) - quickSlack}
				w.put(newWord(1, 1))
				for _, v := range c.header[:c.headers] {
					w.put(v)
				}
				if !w.segment(m, c) {
					t.Error("no room")
				}
				w.put(newWord(0, -w.n&7))
				z := binary.BigEndian.AppendUint32(b[:w.p], adler32(body))
				f.check(t, z, body)
				sums = append(sums, crc32.ChecksumIEEE(body))
				put(z)
			}
		}
	})
	for i, a := range answers {
		if a.Size != 6000 || a.CRC != sums[i] {
			t.Errorf("stream %d: zlib makes %d other bytes", i, a.Size)
		}
	}
}

// drawn returns n bytes of the literals of a histogram, in no order.
func drawn(h *counts, n int) []byte {
	rnd := rand.New(rand.NewPCG(23, 24))
	total := uint32(0)
	for _, f := range h[:256] {
		total += f
	}
	body := make([]byte, n)
	for i := range body {
		at, c := rnd.Uint32N(total), 0
		for at >= h[c] {
			at -= h[c]
			c++
		}
		body[i] = byte(c)
	}
	return body
}
