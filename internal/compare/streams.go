package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// stepsStreams are what is done with one file, beside bup: kedge is called by its name and
// works on a repository that bup made, so both do the same to the same bytes.
var stepsStreams = []string{"split -n", "split --noop -t", "join"}

// runStreams measures.
func runStreams(kedge string, scale float64, runs int, dir string) error {
	as := filepath.Join(dir, "bin", "bup")
	if err := os.MkdirAll(filepath.Dir(as), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(kedge, as); err != nil {
		return err
	}
	tools := installed([]tool{{name: "kedge", exe: as}, {name: "bup", exe: "bup"}})
	var all []result
	for _, set := range []string{"media", "dump"} {
		data := filepath.Join(dir, "data")
		if err := makeSet(set, data, scale); err != nil {
			return err
		}
		file, err := oneFile(filepath.Join(data, "day1"), filepath.Join(dir, "stream"))
		if err != nil {
			return err
		}
		for range runs {
			for _, t := range tools {
				rs, err := streamSteps(t, set, file, dir)
				if err != nil {
					return err
				}
				all = append(all, rs...)
			}
		}
		if err := os.RemoveAll(data); err != nil {
			return err
		}
	}
	printStreams(tools, all)
	return nil
}

// oneFile puts all files of a directory into one, behind one another.
func oneFile(dir, to string) (string, error) {
	return to, quiet("sh", "-c", `find "$1" -type f -print0 | sort -z | xargs -0 cat > "$2"`, "sh", dir, to)
}

func streamSteps(t tool, set, file, dir string) (rs []result, err error) {
	repo := filepath.Join(dir, "repo")
	if err := os.RemoveAll(repo); err != nil {
		return nil, err
	}
	if err := quiet("bup", "-d", repo, "init"); err != nil {
		return nil, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	for _, step := range stepsStreams {
		words := append([]string{t.exe, "-d", repo}, strings.Fields(step)...)
		switch step {
		case "split -n":
			words = append(words, "main", file)
		case "join":
			words = append(words, "-o", filepath.Join(dir, "joined"), "main")
		default:
			words = append(words, file)
		}
		r, err := timed(t, [][]string{words}, dir)
		if err != nil {
			return rs, err
		}
		r.set, r.tool, r.step = set, t.name, step
		fmt.Fprintf(os.Stderr, "%-6s %-8s %-16s %7.2f s  cpu %7.2f s  %7.0f MB/s\n", set, t.name, step, r.wall, r.cpu, float64(info.Size())/1e6/r.wall)
		rs = append(rs, r)
	}
	if err := quiet("cmp", file, filepath.Join(dir, "joined")); err != nil {
		return rs, fmt.Errorf("%s gave back other bytes: %w", t.name, err)
	}
	return rs, quiet("git", "-C", repo, "fsck", "--full", "--strict", "--no-dangling")
}

func printStreams(tools []tool, all []result) {
	fmt.Print("| step, s (CPU) |")
	for _, t := range tools {
		fmt.Printf(" %s |", t.name)
	}
	fmt.Print(" ratio |\n|---|" + strings.Repeat("---|", len(tools)+1) + "\n")
	for _, set := range []string{"media", "dump"} {
		for _, step := range stepsStreams {
			fmt.Printf("| %s, %s |", step, set)
			var walls []float64
			for _, t := range tools {
				r, _ := best(all, set, t.name, step)
				walls = append(walls, r.wall)
				fmt.Printf(" %.2f (%.2f) |", r.wall, r.cpu)
			}
			if len(walls) == 2 {
				fmt.Printf(" %.1f |\n", walls[1]/walls[0])
			} else {
				fmt.Println(" |")
			}
		}
	}
}
