package job

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
)

// What stands in examples and in the packages are config files, of which every key is known
// and every job makes sense. So is what the sample of the package says in comments.
func TestExamples(t *testing.T) {
	var files []string
	err := filepath.WalkDir("../../examples", func(name string, d fs.DirEntry, err error) error {
		if strings.HasSuffix(name, ".toml") {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 4 {
		t.Fatalf("only %q", files)
	}
	for _, name := range append(files, "../packaging/kedge.toml") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{string(text), uncommented(string(text))} {
			file := filepath.Join(t.TempDir(), "kedge.toml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := Load(&fsx.FS{}, file)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			for i := range c.Jobs {
				plans, err := c.Jobs[i].Plans("web1")
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				for p := range plans {
					k := NewKit(c, &c.Jobs[i], &plans[p], "web1", nil, nil)
					if text, err := k.Append(nil); err != nil {
						t.Error(err)
					} else if _, err := ParseKit(text); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
		}
	}
}

// uncommented takes "#" off the lines that are config, and not prose: those follow directly.
func uncommented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if len(line) > 1 && line[0] == '#' && line[1] != ' ' && line[1] != '\n' {
			line = line[1:]
		}
		b.WriteString(line)
	}
	return b.String()
}
