package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every module that the go tool finds in a program is in its bill, and nothing else; the same
// program has the same bill.
func TestBill(t *testing.T) {
	program := filepath.Join(t.TempDir(), "kedge")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/kedge").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	listing, err := exec.Command("go", "version", "-m", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	var text, again bytes.Buffer
	if err := run(program, &text); err != nil {
		t.Fatal(err)
	}
	if err := run(program, &again); err != nil || !bytes.Equal(text.Bytes(), again.Bytes()) {
		t.Errorf("the second bill is another: %v", err)
	}
	var d document
	if err := json.Unmarshal(text.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for _, c := range d.Components {
		have[c.Name] = c.Version
		if len(c.Properties) != 1 && c.Name != "std" {
			t.Errorf("%s has no hash", c.Name)
		}
	}
	n := 0
	for line := range strings.Lines(string(listing)) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == "dep" {
			if n++; have[f[1]] != f[2] {
				t.Errorf("%s %s: the bill has %q", f[1], f[2], have[f[1]])
			}
		}
	}
	if n < 5 || len(have) != n+1 || len(d.Dependencies[0].DependsOn) != n+1 {
		t.Errorf("%d modules, %d in the bill", n, len(have))
	}
	if d.Metadata.Component.Name != "github.com/kedgebackup/kedge" || d.Metadata.Component.Hashes[0].Algorithm != "SHA-256" {
		t.Errorf("%+v", d.Metadata)
	}
	if !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(d.Serial) {
		t.Errorf("serial number %q", d.Serial)
	}
}

func TestBillOfNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, []byte("no program\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(file, new(bytes.Buffer)); err == nil {
		t.Error("a text has a bill")
	}
}
