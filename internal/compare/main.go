// Command compare runs kedge side by side with bup, restic and borg, whichever
// are installed, over data that it makes, and prints a table in Markdown.
//
//	go run ./internal/compare [-kedge bin/kedge] [-sets dump,media,small,tree] [-scale 1] [-runs 1] [-dir DIR] [-remote=false]
//	go run ./internal/compare -s3 [-scale 0.3] [-runs 3]
//	go run ./internal/compare -streams [-scale 0.6] [-runs 3]
//
// Each tool gets the same bytes at the same path, one tool after the other
// within a set, so that a machine that changes its speed changes it for all.
// The steps are: the first save, a save with nothing changed, a save after the
// second day's changes came in, a restore (compared byte by byte), and the full
// check. Wall and CPU seconds are those of the processes, children included;
// memory is the largest of them. bup and borg do not encrypt here; restic always does.
//
// Then the same over SSH: an sshd and a "kedge serve" are started on loopback, and CPU
// seconds are told of each end. Without an sshd that can be started here this is left out.
package main

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

type result struct {
	set, tool, step string
	wall, cpu       float64
	server          float64 // CPU seconds of the other end
	rssMiB          int64
	repoMB          float64
	note            string
}

func main() {
	kedge := flag.String("kedge", "bin/kedge", "the kedge to measure")
	sets := flag.String("sets", "dump,media,small,tree", "data sets")
	scale := flag.Float64("scale", 1, "size of the sets; 1 is about 2.5, 1.5, 0.2 and 0.5 GB")
	runs := flag.Int("runs", 1, "runs; the fastest of each step counts")
	dir := flag.String("dir", "", "where to work (default: a new temporary directory)")
	s3 := flag.Bool("s3", false, "compare mirrors to an object store with s3cmd and rclone instead")
	streams := flag.Bool("streams", false, "compare split and join under the name bup with bup's instead")
	far := flag.Bool("remote", true, "measure over SSH, too")
	flag.Parse()
	if err := run(*kedge, strings.Split(*sets, ","), *scale, *runs, *dir, *s3, *streams, *far); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(kedge string, sets []string, scale float64, runs int, dir string, s3, streams, far bool) error {
	kedge, err := filepath.Abs(kedge)
	if err != nil {
		return err
	}
	if dir == "" {
		if dir, err = os.MkdirTemp("", "kedge-compare-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	if s3 {
		return runS3(kedge, scale, runs, dir)
	}
	if streams {
		return runStreams(kedge, scale, runs, dir)
	}
	tools := installed(allTools(kedge, dir))
	var remote []tool
	if far {
		if h, err := startHost(kedge, dir); err != nil {
			fmt.Fprintln(os.Stderr, "compare: nothing is measured over SSH:", err)
		} else {
			defer h.stop()
			remote = installed(remoteTools(kedge, dir, h))
		}
	}
	var all []result
	for _, set := range sets {
		data := filepath.Join(dir, "data", set)
		if err := makeSet(set, data, scale); err != nil {
			return fmt.Errorf("data set %s: %w", set, err)
		}
		for range runs {
			for _, t := range slices.Concat(tools, remote) {
				rs, err := measure(t, set, data, dir)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", t.name, set, err)
				}
				all = append(all, rs...)
			}
		}
		if err := os.RemoveAll(data); err != nil {
			return err
		}
	}
	printTable(tools, sets, all)
	if len(remote) > 0 {
		printRemote(remote, sets, all)
	}
	return nil
}

// measure runs all steps of one tool over one set.
func measure(t tool, set, data, dir string) ([]result, error) {
	work := filepath.Join(dir, "work")
	if err := os.RemoveAll(work); err != nil {
		return nil, err
	}
	src, repo, out := filepath.Join(work, "src"), filepath.Join(work, "repo"), filepath.Join(work, "out")
	if t.server != nil {
		repo = filepath.Join(dir, "host", "root", "repo") // where kedge's server has it
		defer os.RemoveAll(repo)
	}
	for _, d := range []string{work, out} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	defer os.RemoveAll(work)
	if err := quiet("cp", "-a", filepath.Join(data, "day1"), src); err != nil {
		return nil, err
	}
	if err := quiet("sync"); err != nil {
		return nil, err
	}
	p := paths{src: src, repo: repo, out: out, home: filepath.Join(work, "home")}
	if err := quietCommands(t.setup(p)); err != nil {
		return nil, err
	}
	var rs []result
	step := func(name string, cmds [][]string) error {
		r, err := timed(t, cmds, out)
		r.set, r.tool, r.step = set, t.name, name
		r.repoMB = float64(treeSize(repo)) / 1e6
		rs = append(rs, r)
		fmt.Fprintf(os.Stderr, "%-6s %-15s %-10s %7.2f s  cpu %7.2f + %.2f s  %5d MiB  repo %8.1f MB\n",
			set, t.name, name, r.wall, r.cpu, r.server, r.rssMiB, r.repoMB)
		return err
	}
	if err := step("first", t.save(p, 1)); err != nil {
		return nil, err
	}
	if err := step("unchanged", t.save(p, 2)); err != nil {
		return nil, err
	}
	if err := sync(filepath.Join(data, "day2"), src); err != nil {
		return nil, err
	}
	if err := step("day 2", t.save(p, 3)); err != nil {
		return nil, err
	}
	if err := step("restore", t.restore(p)); err != nil {
		return nil, err
	}
	if err := quiet("diff", "-r", "--no-dereference", src, filepath.Join(out, t.restored(p))); err != nil {
		rs[len(rs)-1].note = " (wrong)"
	}
	if t.check == nil {
		return rs, nil
	}
	return rs, step("check", t.check(p))
}

// sync makes the live tree that of the next day, touching only what differs.
func sync(from, to string) error {
	if err := quiet("rsync", "-a", "--delete", "--inplace", from+"/", to+"/"); err != nil {
		return err
	}
	time.Sleep(1100 * time.Millisecond) // bup's index waits for the next second otherwise
	return nil
}

func timed(t tool, cmds [][]string, dir string) (r result, err error) {
	before := t.server.cpu()
	defer func() {
		t.server.settle()
		r.server = t.server.cpu() - before
	}()
	for _, argv := range cmds {
		c := exec.Command(argv[0], argv[1:]...)
		c.Env, c.Dir = append(os.Environ(), t.env...), dir
		var msg strings.Builder
		c.Stderr = &msg
		start := time.Now()
		err := c.Run()
		r.wall += time.Since(start).Seconds()
		if s := c.ProcessState; s != nil {
			r.cpu += (s.UserTime() + s.SystemTime()).Seconds()
			if ru, ok := s.SysUsage().(*syscall.Rusage); ok {
				r.rssMiB = max(r.rssMiB, ru.Maxrss/1024)
			}
		}
		if err != nil {
			return r, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, msg.String())
		}
	}
	return r, nil
}

func quiet(argv ...string) error {
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %.300s", strings.Join(argv, " "), err, out)
	}
	return nil
}

func quietCommands(c []command) error {
	for _, x := range c {
		cmd := exec.Command(x.argv[0], x.argv[1:]...)
		cmd.Env = append(os.Environ(), x.env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(x.argv, " "), err, out)
		}
	}
	return nil
}

func treeSize(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // a file that went away has no size
		}
		if i, err := d.Info(); err == nil && i.Mode().IsRegular() {
			n += i.Size()
		}
		return nil
	})
	return n
}

func printTable(tools []tool, sets []string, all []result) {
	var head, rule strings.Builder
	for _, t := range tools {
		fmt.Fprintf(&head, " %s |", t.name)
		rule.WriteString("---|")
	}
	fmt.Printf("| set | step |%s\n|---|---|%s\n", head.String(), rule.String())
	for _, set := range sets {
		for _, step := range []string{"first", "unchanged", "day 2", "restore", "check"} {
			fmt.Printf("| %s | %s, s |", set, step)
			for _, t := range tools {
				r, ok := best(all, set, t.name, step)
				if !ok {
					fmt.Print(" – |")
					continue
				}
				fmt.Printf(" %.2f%s |", r.wall, r.note)
			}
			fmt.Println()
		}
		fmt.Printf("| %s | MB after day 1 / day 2, peak MiB |", set)
		for _, t := range tools {
			a, _ := best(all, set, t.name, "first")
			b, _ := best(all, set, t.name, "day 2")
			fmt.Printf(" %.0f / %.0f, %d |", a.repoMB, b.repoMB, peak(all, set, t.name))
		}
		fmt.Println()
	}
}

func best(all []result, set, tool, step string) (b result, ok bool) {
	for _, r := range all {
		if r.set == set && r.tool == tool && r.step == step && (!ok || r.wall < b.wall) {
			b, ok = r, true
		}
	}
	return b, ok
}

func peak(all []result, set, tool string) (n int64) {
	for _, r := range all {
		if r.set == set && r.tool == tool {
			n = max(n, r.rssMiB)
		}
	}
	return n
}

// installed returns kedge and those of the peers that are on the PATH.
func installed(tools []tool) []tool {
	return slices.DeleteFunc(tools, func(t tool) bool {
		_, err := exec.LookPath(t.exe)
		return err != nil
	})
}
