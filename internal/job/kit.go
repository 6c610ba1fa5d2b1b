package job

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// A kit is what a save has to say of itself for the day on which nothing else is left: where
// its paths belong, what reads its streams, which hooks end a recovery, and for people how to
// go about it. Every save that Run makes holds its own, so an old save is recovered by the
// config of its day:
//
//	/.kedge-kit/kit.json       Kit; what kedge recover reads
//	/.kedge-kit/RECOVER.txt    the procedure, which kedge kit prints
//	/.kedge-kit/kedge.toml     the config file, but for secrets
//
// Passwords are in files of their own, which a kit only names. What stands in the config all
// the same (a password in a command, the address of a webhook) is left out: see Redact.
//
// A program refuses a kit whose format it does not know; fields may be added to kedge-kit/1.
// The least that there is, as it is written (TestKitExample):
//
//	{"format":"kedge-kit/1","host":"web1","job":"files","name":"dir-etc","repository":"ssh://srv/web1","paths":[{"place":"/etc"}],"names":["dir-etc"]}
const (
	KitDir       = "/.kedge-kit"
	KitFile      = KitDir + "/kit.json"
	KitProcedure = KitDir + "/RECOVER.txt"
	KitConfig    = KitDir + "/kedge.toml"

	kitFormat = "kedge-kit/1"
	maxKit    = 1 << 20
)

// Kit is what kedge recover has to know of a save.
type Kit struct {
	Format     string      `json:"format"` // kedge-kit/1
	Host       string      `json:"host"`
	Job        string      `json:"job"`
	Name       string      `json:"name"`                 // of the save
	Repository string      `json:"repository"`           // where it was saved to
	Mirror     string      `json:"mirror,omitempty"`     // where that is mirrored to
	Endpoint   string      `json:"endpoint,omitempty"`   // of the mirror
	Paths      []KitPath   `json:"paths,omitempty"`      // what it holds
	Exclude    *KitExclude `json:"exclude,omitempty"`    // what it does not
	Streams    []KitStream `json:"streams,omitempty"`    //
	Recover    []string    `json:"recover,omitempty"`    // the hook of the job
	Timeout    Duration    `json:"timeout,omitempty"`    // of each of its commands
	Keys       []KitKey    `json:"keys,omitempty"`       // who is who
	Names      []string    `json:"names"`                // all that this host saves there
	ConfigFile string      `json:"configfile,omitempty"` // where the config file was
}

// KitPath is a path of a save. From is what was walked in its place, a snapshot; "": itself.
type KitPath struct {
	Place string `json:"place"`
	From  string `json:"from,omitempty"`
}

// KitExclude is what was left out below the paths: it is nobody's surplus.
type KitExclude struct {
	Paths []string `json:"paths,omitempty"`
	Rx    []string `json:"rx,omitempty"`
	Globs []string `json:"globs,omitempty"`
}

// KitStream is a stream as its config has it, but for the command that made it.
type KitStream struct {
	Name     string   `json:"name"`
	Path     string   `json:"path"`
	Preset   string   `json:"preset,omitempty"`
	Database string   `json:"database,omitempty"`
	Host     string   `json:"host,omitempty"`
	Port     int      `json:"port,omitempty"`
	User     string   `json:"user,omitempty"`
	RunAs    string   `json:"run-as,omitempty"`
	Secret   string   `json:"password-file,omitempty"`
	File     string   `json:"file,omitempty"`
	Args     []string `json:"args,omitempty"`
	Restore  string   `json:"restore,omitempty"`
	Empty    string   `json:"empty,omitempty"`
}

// KitKey is a key that a recovery may meet: what it does, and its fingerprint or, of one that
// has to be trusted, the whole public key.
type KitKey struct {
	What string `json:"what"`
	Key  string `json:"key"`
}

// copyFields copies the fields of one struct to those of the same name of another.
func copyFields(to, from any) {
	dst, src := reflect.ValueOf(to).Elem(), reflect.ValueOf(from).Elem()
	for i := range dst.NumField() {
		if f := src.FieldByName(dst.Type().Field(i).Name); f.IsValid() {
			dst.Field(i).Set(f)
		}
	}
}

// NewKit makes the kit of a part of a job. others are the names of all parts that go to the
// same repository.
func NewKit(c *Config, j *Job, p *Plan, host string, others []string, keys []KitKey) Kit {
	k := Kit{
		Format: kitFormat, Host: host, Job: j.Job, Name: p.Name, Repository: j.Repository, Endpoint: j.Endpoint,
		Recover: redactAll(j.Hooks.Recover), Timeout: j.Hooks.Timeout, Keys: keys, Names: others,
	}
	if j.Repository == c.Repository {
		k.Mirror = c.Mirror
	}
	for _, dir := range p.Paths {
		kp := KitPath{Place: graft(p.Scope.Graft, path.Clean(dir))}
		if kp.Place != dir {
			kp.From = path.Clean(dir)
		}
		k.Paths = append(k.Paths, kp)
	}
	if s := &p.Scope; len(s.Exclude)+len(s.ExcludeRx)+len(s.ExcludeGlob) > 0 {
		k.Exclude = &KitExclude{Paths: s.Exclude, Rx: s.ExcludeRx, Globs: s.ExcludeGlob}
	}
	for i := range p.Streams {
		var ks KitStream
		copyFields(&ks, &p.Streams[i])
		ks.Restore, ks.Empty, ks.Args = Redact(ks.Restore), Redact(ks.Empty), redactAll(ks.Args)
		k.Streams = append(k.Streams, ks)
	}
	return k
}

// graft returns where a path stands in the saved tree: the longest rule that it is below.
func graft(rules []string, p string) string {
	best, place := -1, p
	for _, rule := range rules {
		from, to, ok := strings.Cut(rule, "=")
		from = path.Clean(from)
		if ok && within(p, from) && len(from) > best {
			best, place = len(from), path.Join("/", to, strings.TrimPrefix(p, strings.TrimSuffix(from, "/")))
		}
	}
	return place
}

// within reports whether a path is a directory, or below it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// Stream returns the stream of which a kit tells.
func (ks *KitStream) Stream() Stream {
	var s Stream
	copyFields(&s, ks)
	return s
}

// Append appends the kit as kit.json holds it.
func (k *Kit) Append(b []byte) ([]byte, error) {
	w := bytes.NewBuffer(b)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(k); err != nil {
		return nil, err
	}
	return w.Bytes(), nil
}

// ParseKit reads kit.json.
func ParseKit(text []byte) (Kit, error) {
	var k Kit
	if len(text) > maxKit {
		return k, fmt.Errorf("kit: it has more than %d bytes", maxKit)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&k); err != nil {
		return k, fmt.Errorf("kit: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return k, fmt.Errorf("kit: something stands behind its end, at offset %d", d.InputOffset())
	}
	if k.Format != kitFormat {
		return k, fmt.Errorf("kit: its format is %.40q, and %q is known", k.Format, kitFormat)
	}
	return k, k.check()
}

// check refuses what no kit says: a recovery writes where the paths tell it to.
func (k *Kit) check() error {
	if k.Job == "" || k.Name == "" {
		return fmt.Errorf("kit: it names neither job nor save")
	}
	abs := func(p string) bool { return path.IsAbs(p) && path.Clean(p) == p && !strings.Contains(p, "\x00") }
	for _, p := range k.Paths {
		if !abs(p.Place) || p.From != "" && !abs(p.From) {
			return fmt.Errorf("kit: %q is no path", p.Place)
		}
	}
	names := make(map[string]bool)
	for _, s := range k.Streams {
		if s.Name == "" || names[s.Name] || !abs(s.Path) {
			return fmt.Errorf("kit: stream %q at %q", s.Name, s.Path)
		}
		names[s.Name] = true
	}
	return nil
}

// LeftOut stands in a kit where a secret stood. A command that holds it is not run.
const LeftOut = "SECRET-LEFT-OUT"

// secrets are how secrets look when they stand where they should not. The first group stays,
// the rest is left out. What a shell or a file is asked for ($VAR, /path) is none.
var secrets = []*regexp.Regexp{
	regexp.MustCompile(`((?m)^\s*(?:ping|webhook)\s*=\s*["'])([^"'\n]+)`),
	regexp.MustCompile(`(://[^/\s:@"']+:)([^@/\s"']+)`),
	regexp.MustCompile(`((?i)[\w-]*(?:passw(?:or)?d|passphrase|pwd|secret|token|api[-_]?key|access[-_]?key|auth)=["']?)([^\s"'$/{\\][^\s"'\\]*)`),
	regexp.MustCompile(`((?i)\b(?:bearer|basic)\s+)([A-Za-z0-9._~+/=-]{8,})`),
	regexp.MustCompile(`((?:mysql|mysqldump|mysqladmin|mariadb|mariadb-dump)\b[^|;&\n]*?\s-p)([^\s"'$]+)`),
	regexp.MustCompile(`((?:curl|wget)\b[^|;&\n]*?\s(?:-u|--user)[ =][^\s:"']+:)([^\s"'$]+)`),
}

// Redact leaves out what looks like a secret in a text: values of variables and options
// called after passwords and tokens, those in addresses, the addresses of pings and webhooks.
func Redact(text string) string {
	for _, rx := range secrets {
		text = rx.ReplaceAllString(text, "${1}"+LeftOut)
	}
	return text
}

func redactAll(list []string) []string {
	list = slices.Clone(list)
	for i := range list {
		list[i] = Redact(list[i])
	}
	return list
}
