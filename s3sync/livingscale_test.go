package s3sync_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
	"github.com/kedgebackup/kedge/s3sync"
)

// tallied is a store in memory that counts what it is asked for.
type tallied struct {
	*memory
	ops      map[string]int
	put, got map[string]int64 // bytes, by what they are of
}

// kindOf says what a key is of.
func kindOf(key string) string {
	for _, kind := range []string{"objects/pack", "kedge/segments", "state", "manifests", "bases"} {
		if strings.Contains(key, "/"+kind+"/") {
			return kind
		}
	}
	return "other"
}

func (c *tallied) Put(ctx context.Context, key string, b s3sync.Body) (string, error) {
	c.ops["PUT"]++
	c.put[kindOf(key)] += b.Size
	return c.memory.Put(ctx, key, b)
}

func (c *tallied) Get(ctx context.Context, key, version string, p []byte, off int64) (int, error) {
	n, err := c.memory.Get(ctx, key, version, p, off)
	c.ops["GET"]++
	c.got[kindOf(key)] += int64(n)
	return n, err
}

func (c *tallied) Stat(ctx context.Context, key, version string) (s3sync.Object, error) {
	c.ops["GET"]++
	return c.memory.Stat(ctx, key, version)
}

func (c *tallied) List(ctx context.Context, prefix, after string, fn func(s3sync.Object) error) error {
	c.ops["LIST"]++
	return c.memory.List(ctx, prefix, after, fn)
}

// nights are what was measured of instances that save into one repository each night.
type nights struct {
	nights, instances, blobs int

	saves        int
	perSave      map[string]float64 // requests, over the second half of the nights
	put, got     map[string]int64
	receipt      float64 // bytes of receipts for a save
	closed, line float64 // bytes for a pack: of the list of closed ones, of a full manifest
	packs        float64 // of a save
	again        float64 // how many full manifests a save reads
	segments     int     // at the end
}

// simulate runs the code that saves against a store in memory.
func simulate(t *testing.T, o nights) nights {
	t.Helper()
	ctx := t.Context()
	c := &tallied{newMemory(), make(map[string]int), make(map[string]int64), make(map[string]int64)}
	b := &s3sync.Bucket{Objects: c, Prefix: "p/build/"}
	unsynced := &fsx.FS{Intercept: func(op fsx.Op, do func() error) error {
		if op.Kind == fsx.KindSync || op.Kind == fsx.KindSyncDir {
			return nil
		}
		return do()
	}}
	save := func(i, night int, dir string) error {
		l, err := b.Live(s3sync.LivingOptions{FS: unsynced, Dir: filepath.Join(dir, "bucket"), Workers: 1})
		if err != nil {
			return err
		}
		config, err := repo.NewConfig(repo.InitOptions{})
		if err == nil {
			err = l.Init(ctx, config)
		}
		if err != nil {
			return err
		}
		p, err := repo.OpenDepot(ctx, filepath.Join(dir, "desk"), l, repo.DirOptions{FS: unsynced})
		if err != nil {
			return err
		}
		defer p.Close()
		m := repo.Move{Ref: fmt.Sprintf("refs/heads/instance%04d", i), Reparent: true}
		refs, err := p.Refs(ctx, m.Ref)
		if err != nil {
			return err
		}
		var parents []pack.ID
		for _, ref := range refs {
			m.Old, parents = ref.ID, []pack.ID{ref.ID}
		}
		s := repotest.NewSave(fmt.Sprint(i, " ", night), o.blobs, parents...)
		if err := repotest.Store(ctx, p, s); err != nil {
			return err
		}
		m.New = s.Commit
		_, err = p.SetRef(ctx, m)
		return err
	}
	dirs := make([]string, o.instances)
	for i := range dirs {
		dirs[i] = t.TempDir()
	}
	for night := range o.nights {
		if night == o.nights/2 {
			clear(c.ops)
		}
		for i, dir := range dirs {
			if err := save(i, night, dir); err != nil {
				t.Fatal(err)
			}
			o.saves++
		}
	}
	o.put, o.got, o.perSave = c.put, c.got, make(map[string]float64)
	for op, n := range c.ops {
		o.perSave[op] = float64(n) / float64(o.saves/2)
	}
	g, err := b.Latest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	packs := 0
	for _, f := range g.Files {
		switch {
		case strings.HasSuffix(f.Name, ".pack"):
			packs++
		case filepath.Dir(f.Name) == "kedge/segments":
			o.segments++
		}
	}
	for _, f := range g.Files {
		switch f.Name {
		case "kedge/receipts":
			o.receipt = float64(f.Size) / float64(o.saves)
		case "kedge/closed":
			o.closed = float64(f.Size) / float64(packs)
		}
	}
	full := g.Manifest
	full.Kind, full.Files, full.Gone = s3sync.Full, g.Files, nil
	o.line = float64(len(full.Append(nil))) / float64(packs)
	// On the average of the nights a full one had half of that.
	o.again = float64(c.got["manifests"]) / float64(o.saves) / (o.line * float64(packs) / 2)
	o.packs = float64(packs) / float64(o.saves)
	return o
}

// Sizes of the layout.
const (
	rowBytes  = 26 + 26.0/630 // of a segment, for an object
	headBytes = 16 << 10
	packBytes = 128 << 20
	absorb    = 8
)

// merges is what the segments of one class cost: those of which size is there, and the bytes
// written so far.
type merges struct {
	rows    []float64 // ascending
	written float64
}

// add makes the segments of a generation with new rows, as segmentsOf does.
func (m *merges) add(rows float64) (put float64) {
	slices.Sort(m.rows)
	var kept []float64
	for _, r := range m.rows {
		if r < absorb*rows {
			rows += r
		} else {
			kept = append(kept, r)
		}
	}
	m.rows = append(kept, rows)
	put = headBytes + rows*rowBytes
	m.written += put
	return put
}

// near fails if a figure that was worked out is not what was measured.
func near(t *testing.T, what string, measured, worked, percent float64) {
	t.Helper()
	if math.Abs(measured-worked) > measured*percent/100 {
		t.Errorf("%s: %.0f were measured, %.0f are worked out", what, measured, worked)
	}
}

// prices are what a store asks for, in dollars: list prices of S3 Standard in us-east-1.
type prices struct {
	put, get, month, out float64 // 1000 PUT or LIST, 1000 GET, a GB for a month, a GB to the internet
}

var listPrices = prices{put: 0.005, get: 0.0004, month: 0.023, out: 0.09}

// assumed is what the tables are of.
type assumed struct {
	instance float64 // bytes stored of each
	nightly  float64 // new bytes of it each night
	object   float64 // bytes of one
	window   float64 // seconds in which all have saved
	cores    float64 // of a gateway
	line     float64 // bytes a second of an instance's
	years    float64
}

var fleet = assumed{instance: 100e9, nightly: 0.5e9, object: 80 << 10, window: 8 * 3600, cores: 4, line: 125e6, years: 1}

// shard is a repository of n instances after the years.
type shard struct {
	objects, index, packs, manifest, receipts float64
	stateNight, segmentNight                  float64 // bytes written each night
	readSave                                  float64 // bytes that a saver reads of what is not data
	puts, gets                                float64 // a night
}

// after works out a repository from what was measured.
func (a assumed) after(m nights, n float64) (s shard) {
	days := 365 * a.years
	saves := n * days
	s.objects = n * a.instance / a.object
	s.index = s.objects * rowBytes
	dataPacks := math.Ceil(a.nightly / packBytes)
	s.packs = n*a.instance/packBytes + saves*m.packs // full ones, and what ends a save
	s.manifest = s.packs * m.line
	s.receipts = saves * m.receipt
	closed := s.packs * m.closed
	s.stateNight = n * (s.receipts + closed)
	// The nights since the day on which the data was as it is.
	seg := merges{rows: []float64{s.objects}}
	for range int(days * n) {
		seg.add(a.nightly / a.object)
	}
	s.segmentNight = seg.written / days
	// Between two saves of one instance all of that has changed.
	s.readSave = float64(m.got["state"])/float64(m.put["state"])*(s.receipts+closed) + m.again*s.manifest + min(s.segmentNight, s.index)
	s.puts = n * (m.perSave["PUT"] + m.perSave["LIST"] + (dataPacks-1)*11) // in parts of 16 MiB
	s.gets = n * (m.perSave["GET"] + s.readSave/(4<<20))
	return s
}

// round shows a number with two digits.
func round(x float64) string {
	if x == 0 {
		return "0"
	}
	unit := math.Pow(10, math.Floor(math.Log10(x))-1)
	x = math.Round(x/unit) * unit
	s := strconv.FormatFloat(x, 'f', max(0, int(-math.Round(math.Log10(unit)))), 64)
	if strings.Contains(s, ".") {
		return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// size shows a number of bytes.
func size(x float64) string {
	for _, u := range []struct {
		unit float64
		name string
	}{{1e15, "PB"}, {1e12, "TB"}, {1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}} {
		if x >= u.unit {
			return round(x/u.unit) + " " + u.name
		}
	}
	return round(x) + " B"
}

// benchmark is what docs/benchmarks.md measured.
type benchmark struct {
	client, server float64 // CPU seconds for a GB of a first save that does not compress
	restore        float64 // bytes a second from a bucket
	session        float64 // bytes of memory of a gateway for each session
}

func readBenchmark(t *testing.T) (b benchmark) {
	t.Helper()
	text, err := os.ReadFile("../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	find := func(expr string) []float64 {
		m := regexp.MustCompile(expr).FindSubmatch(text)
		if m == nil {
			t.Fatalf("docs/benchmarks.md has no %s", expr)
		}
		var list []float64
		for _, w := range m[1:] {
			x, err := strconv.ParseFloat(string(w), 64)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, x)
		}
		return list
	}
	gb := find(`\*media\* ([0-9.]+) GB`)[0]
	cpu := find(`\| media \| first \| [^|]* \| [0-9.]+ \(([0-9.]+) \+ ([0-9.]+)\)`)
	b.client, b.server = cpu[0]/gb, cpu[1]/gb
	b.restore = find(`\| 125 MB/s \|[^|]*\| [0-9.]+ s, ([0-9.]+) MB/s`)[0] * 1e6
	b.session = find(`355 MiB for 24 \(([0-9]+) MiB each`)[0] * (1 << 20)
	return b
}

// tables writes the tables of docs/operate/scale.md.
func tables(m nights, b benchmark, a assumed, p prices) string {
	var w strings.Builder
	pf := func(format string, args ...any) { fmt.Fprintf(&w, format, args...) }
	saves := float64(m.saves)
	pf("One save of one tree, measured in %d nights of %d instances in one repository:\n\n| | |\n|---|---|\n", m.nights, m.instances)
	pf("| PUT / GET / LIST | %s / %s / %s |\n", round(m.perSave["PUT"]), round(m.perSave["GET"]), round(m.perSave["LIST"]))
	pf("| receipts grow by | %s |\n", size(m.receipt))
	pf("| list of closed packs, for each pack | %s |\n", size(m.closed))
	pf("| full manifest, for each pack | %s |\n", size(m.line))
	pf("| full manifests read by a save | %s |\n", round(m.again))
	pf("| state read, of what is written | %s |\n", round(float64(m.got["state"])/float64(m.put["state"])))
	pf("| manifests written, on the average | %s |\n", size(float64(m.put["manifests"]+m.put["bases"])/saves))
	pf("| segments written, on the average | %s |\n\n", size(float64(m.put["kedge/segments"])/saves))

	pf("One repository after a year; each instance has %s and %s more each night (what is pruned as much goes away):\n\n", size(a.instance), size(a.nightly))
	pf("| instances | stored | objects | index, at each saver | packs | full manifest | receipts | state written, a night | segments written, a night | read by a saver, beside data |\n")
	pf("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, n := range []float64{1, 10, 100, 1000} {
		s := a.after(m, n)
		pf("| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", round(n), size(n*a.instance), round(s.objects), size(s.index), round(s.packs),
			size(s.manifest), size(s.receipts), size(s.stateNight), size(s.segmentNight), size(s.readSave))
	}
	pf("\nA fleet, by how many instances share a repository; dollars for a month at %v for 1000 PUT or LIST, %v for 1000 GET, %v for a GB stored:\n\n", p.put, p.get, p.month)
	pf("| stored | instances | in one repository | repositories | objects in packs | keys in the bucket | PUT and LIST, a night | GET, a night | requests | storage | traffic beside data, a night |\n")
	pf("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, n := range []float64{10, 1000, 100000} {
		for _, share := range []float64{1, 10, 100} {
			if share > n {
				continue
			}
			s, repos := a.after(m, share), n/share
			pf("| %s | %s | %s | %s | %s | %s | %s | %s | $%s | $%s | %s |\n", size(n*a.instance), round(n), round(share), round(repos), round(repos*s.objects),
				round(repos*2*s.packs), round(repos*s.puts), round(repos*s.gets), round(30*repos*(s.puts*p.put+s.gets*p.get)/1000),
				round(n*a.instance/1e9*p.month), size(repos*(s.stateNight+s.segmentNight+share*s.readSave)))
		}
	}
	pf("\nGateways of %v cores, for all to save within %v hours, ten instances in a repository:\n\n", a.cores, a.window/3600)
	pf("| instances | new, a night | a gateway takes | gateways for a night | for a first save within a week | memory of each | disk of each | one instance comes back in | all, through these | and straight from the bucket |\n")
	pf("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	s := a.after(m, 10)
	rate := a.cores / b.server * 1e9
	for _, n := range []float64{10, 1000, 100000} {
		gates := math.Max(2, math.Ceil(n*a.nightly/rate/a.window)+1)
		first := math.Max(2, math.Ceil(n*a.instance/rate/(7*24*3600))+1)
		one := a.instance / math.Min(a.line, b.restore)
		sessions := math.Min(n, math.Ceil(rate/math.Min(a.line, b.restore)))
		pf("| %s | %s | %s/s | %s | %s | %s | %s | %s min | %s h | %s min |\n", round(n), size(n*a.nightly), size(rate), round(gates), round(first),
			size(sessions*b.session), size(n/10*s.index/gates), round(one/60), round(math.Max(one, n*a.instance/(rate*first))/3600), round(one/60))
	}
	return w.String()
}

// What large repositories cost is worked out from what is measured here, and stands in
// docs/operate/scale.md as it is worked out (KEDGE_SCALE=write puts it there).
func TestScale(t *testing.T) {
	m := simulate(t, nights{nights: 60, instances: 2, blobs: 30})

	// What is worked out for years must be right for these nights.
	state := 0.0
	for k := range m.saves {
		state += float64(k+1) * (m.receipt + m.packs*m.closed)
	}
	near(t, "bytes of state", float64(m.put["state"]), state, 5)
	var data, trees merges
	for range m.saves {
		data.add(float64(m.blobs))
		trees.add(2)
	}
	near(t, "bytes of segments", float64(m.put["kedge/segments"]), data.written+trees.written, 10)
	if n := len(data.rows) + len(trees.rows); n < m.segments-1 || n > m.segments+1 {
		t.Errorf("%d segments, %d are worked out", m.segments, n)
	}

	got := tables(m, readBenchmark(t), fleet, listPrices)
	t.Logf("\n%s", got)
	const name, begin, end = "../docs/operate/scale.md", "<!-- make scale -->\n", "<!-- end -->\n"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), begin)
	was, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the tables", name)
	}
	if os.Getenv("KEDGE_SCALE") == "write" {
		if err := os.WriteFile(name, []byte(head+begin+got+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if was != got {
		t.Errorf("%s says otherwise:\n%s", name, was)
	}
}
