package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/internal/job"
)

func TestMarshal(t *testing.T) {
	for in, want := range map[string]string{
		"plain <&>":       `"plain <&>"`,
		"a\nb\x1b\x7f":    `"a\nb\u001b\u007f"`,
		"größe":           `"gr\u00f6\u00dfe"`,
		"\u202e\u009b":    `"\u202e\u009b"`,
		"\U0001f600":      `"\ud83d\ude00"`,
		"bad \xff byte":   `"bad \ufffd byte"`,
		"quote \" slash ": `"quote \" slash "`,
	} {
		got, err := marshal(in)
		if err != nil || string(got) != want {
			t.Errorf("%q: %s, %v, want %s", in, got, err, want)
		}
		var back string
		if err := json.Unmarshal(got, &back); err != nil || back != strings.ToValidUTF8(in, "\ufffd") {
			t.Errorf("%q comes back as %q, %v", in, back, err)
		}
	}
	if n := nameJSON("\xff\x00"); n.Base64 != "/wA=" {
		t.Errorf("%+v", n)
	}
	if n := nameJSON("ü"); n.Base64 != "" || n.Text != "ü" {
		t.Errorf("%+v", n)
	}
}

// A document is one object, whatever happens after it was begun.
func TestJSONDoc(t *testing.T) {
	for _, tt := range []struct {
		do   func(a *app) error
		want string
	}{
		{func(a *app) error { return nil },
			`{"format":"kedge-json/1","command":"version","exit":0,"warnings":0}`},
		{func(a *app) error { return a.doc.begin(a, "version") },
			`{"format":"kedge-json/1","command":"version","entries":[
],"exit":0,"warnings":0}`},
		{func(a *app) error { a.doc.result = initResult{ID: "x"}; return nil },
			`{"format":"kedge-json/1","command":"version","result":{"repository":{"name":""},"id":"x","version":0,"chunker":""},"exit":0,"warnings":0}`},
		{func(a *app) error {
			a.doc.begin(a, "version")
			a.doc.entry(a, nameJSON("a"))
			a.doc.entry(a, nameJSON("b"))
			a.doc.result = jsonTail{}
			a.ui.warn("/x", errors.New("y"))
			return withHint(&partialError{"one missing"}, "look")
		}, `{"format":"kedge-json/1","command":"version","entries":[
{"name":"a"},
{"name":"b"}
],"result":{"exit":0,"warnings":0},"exit":3,"warnings":1,"error":"one missing","hints":["look"]}`},
	} {
		var out strings.Builder
		a := newApp("kedge", world{Stdout: &out, Stderr: io.Discard, FS: &fsx.FS{}})
		cmd := a.versionCommand()
		a.common.json = true
		err := tt.do(a)
		a.finish(context.Background(), cmd, err)
		if strings.TrimSpace(out.String()) != tt.want {
			t.Errorf("%s\nwant\n%s", out.String(), tt.want)
		}
		if !json.Valid([]byte(out.String())) {
			t.Errorf("not JSON: %s", out.String())
		}
	}
}

// Mistakes in the command line are told in JSON too.
func TestJSONUsage(t *testing.T) {
	out, stderr, code := output(t, "kedge", "save", "--json", "--nonsense")
	var doc struct {
		Format, Command, Error string
		Exit                   int
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != 2 || doc.Exit != 2 || doc.Command != "save" ||
		doc.Format != jsonFormat || doc.Error != "there is no option --nonsense" || stderr == "" {
		t.Errorf("exit %d, %v\n%s%s", code, err, out, stderr)
	}
}

// docs/json.md names every field there is.
func TestJSONDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	var check func(typ reflect.Type)
	check = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Type.Kind() == reflect.Struct {
				check(f.Type)
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name != "" && name != "-" && !strings.Contains(string(page), "`"+name+"`") {
				t.Errorf("docs/json.md does not name %s of %v", name, typ)
			}
		}
	}
	for _, v := range []any{jsonTail{}, jsonName{}, initResult{}, updateResult{}, indexEntry{}, saveResult{}, backupResult{},
		restoreResult{}, versionResult{}, lsEntry{}, fsckResult{}, fsckEntry{},
		tagEntry{}, rmResult{}, getResult{}, movedTo{}, adoptResult{},
		job.Status{}, job.RepoStatus{}, job.NameStatus{}, job.Problem{}, job.TaskReport{}, upkeepResult{}, job.Change{}, job.Planned{}} {
		check(reflect.TypeOf(v))
	}
}
