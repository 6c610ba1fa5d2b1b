package pack_test

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// ExampleWriter writes the pack and the idx that the package's doc shows.
func ExampleWriter() {
	f, err := os.CreateTemp("", "pack")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()

	body := []byte("hello\n")
	id := pack.Sum(pack.Blob, body)
	entry, crc := pack.NewEncoder(1).Append(nil, pack.Blob, body)

	w := pack.NewWriter(f)
	if err := w.Add([]pack.Entry{{ID: id, CRC: crc, Bytes: entry}}); err != nil {
		log.Fatal(err)
	}
	name, idx, err := w.Finish()
	if err != nil {
		log.Fatal(err)
	}
	var x bytes.Buffer
	if _, err := idx.WriteTo(&x); err != nil {
		log.Fatal(err)
	}
	p, err := io.ReadAll(io.NewSectionReader(f, 0, 1000))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(name)
	for _, part := range [][]byte{
		p[:4], p[4:8], p[8:12], p[12:13], p[13:15], p[15:16], p[16:18], p[18:20], p[20:26], p[26:30], p[30:],
		x.Bytes()[:4], x.Bytes()[4:8], x.Bytes()[1032:1052], x.Bytes()[1052:1056], x.Bytes()[1056:1060],
		x.Bytes()[1060:1080], x.Bytes()[1080:],
	} {
		fmt.Printf("%x\n", part)
	}
	// Output:
	// 007b4413ed03c6c9a5aa33859e2ae7d4d74449fc
	// 5041434b
	// 00000002
	// 00000001
	// 36
	// 7801
	// 01
	// 0600
	// f9ff
	// 68656c6c6f0a
	// 084b021f
	// 007b4413ed03c6c9a5aa33859e2ae7d4d74449fc
	// ff744f63
	// 00000002
	// ce013625030ba8dba906f756967f9e9ca394464a
	// 1ea9c370
	// 0000000c
	// 007b4413ed03c6c9a5aa33859e2ae7d4d74449fc
	// f10a0c87d99912d14b00e957d3554adce8d8f0e0
}

// TestDocExample finds every byte of the example in the package's doc.
func TestDocExample(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := strings.Cut(string(example), "// Output:\n")
	want, _, _ = strings.Cut(want, "}")
	_, shown, _ := strings.Cut(string(doc), "# Example")
	for line := range strings.Lines(want) {
		digits := strings.TrimSpace(strings.ReplaceAll(line, "//", ""))
		if !strings.Contains(shown, digits) {
			t.Errorf("%s is not in the doc", digits)
		}
	}
}
