package pack

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
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
    b = sys.stdin.buffer.read()
    at, answers = 0, []
    while at < len(b):
        n, = struct.unpack_from("<I", b, at)
        s = b[at+4:at+4+n]
        at += 4 + n
        z = zlib.decompressobj()
        try:
            body = z.decompress(s)
            ok = z.eof
        except zlib.error:
            ok = False
        if ok:
            answers.append(struct.pack("<III", len(body), n - len(z.unused_data), zlib.crc32(body)))
        else:
            answers.append(b"\xff" * 12)
    out.write(b"".join(answers))
`

// askZlib runs zlibScript.
func askZlib(t testing.TB, stdin []byte, command string) []byte {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("python3, which has zlib, is not installed")
	}
	script := filepath.Join(t.TempDir(), "zlib.py")
	if err := os.WriteFile(script, []byte(zlibScript), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("python3", script, command)
	cmd.Stdin = bytes.NewReader(stdin)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("zlib: %v\n%s", err, errs.Bytes())
	}
	return out
}

// zlibsStreams returns streams that zlib makes.
func zlibsStreams(t testing.TB) (all [][]byte) {
	for b := askZlib(t, nil, "make"); len(b) > 0; {
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
	var all []byte
	var streams [][]byte
	for range n {
		src := bytes.Clone(m.next())
		// The checksum of most would be wrong, which hides all else.
		if out, n, err := std.run(src); err != nil && n >= 4 && len(out) > 0 {
			binary.BigEndian.PutUint32(src[n-4:], adler32(out))
		}
		streams = append(streams, src)
		all = binary.LittleEndian.AppendUint32(all, uint32(len(src)))
		all = append(all, src...)
	}
	answers := askZlib(t, all, "check")
	if len(answers) != 12*n {
		t.Fatalf("%d bytes of answers to %d streams", len(answers), n)
	}
	var z inflater
	right := 0
	for i, src := range streams {
		a := answers[12*i:][:12]
		size, took := binary.LittleEndian.Uint32(a), binary.LittleEndian.Uint32(a[4:])
		if size == 1<<32-1 {
			for _, size := range []int{0, 100, 1 << 16} {
				if _, err := z.run(make([]byte, size), src); err == nil {
					t.Fatalf("stream %x: accepted as %d bytes, zlib refuses it", src, size)
				}
			}
			continue
		}
		right++
		dst := make([]byte, size)
		got, err := z.run(dst, src)
		if err != nil || got != int(took) || crc32.ChecksumIEEE(dst) != binary.LittleEndian.Uint32(a[8:]) {
			t.Fatalf("stream %x: took %d bytes, not %d, for %d, or made others: %v", src, got, took, size, err)
		}
	}
	t.Logf("%d streams, zlib accepts %d", n, right)
	if right < n/10 || right > n*9/10 {
		t.Errorf("of %d streams zlib accepts %d: one outcome is too rare", n, right)
	}
}
