package mooring_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/mooringlib/mooring"

// packages are the six that must not know of one another.
var packages = []string{"sco", "pki", "crl", "download", "integrity", "autoinstall"}

// topLevel is everything that may stand at the top.
var topLevel = []string{
	"sco", "pki", "crl", "download", "integrity", "autoinstall", "examples", "internal",
	"go.mod", "go.sum", "README.md", "LICENSE", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md",
	"Makefile", ".ci", ".git", ".gitignore",
}

// maxLines is where a file holds two subjects.
const maxLines = 600

// source is one Go file of the module.
type source struct {
	path  string // slash-separated, from the root
	dir   string
	text  []byte
	ast   *ast.File
	test  bool
	lines int
}

func (s source) imports() []string {
	var all []string
	for _, spec := range s.ast.Imports {
		p, _ := strconv.Unquote(spec.Path.Value)
		all = append(all, p)
	}
	return all
}

// room returns which of the six packages the file belongs to, or "".
func room(p string) string {
	first, _, _ := strings.Cut(p, "/")
	if slices.Contains(packages, first) {
		return first
	}
	return ""
}

func walk(t *testing.T, visit func(p string, d fs.DirEntry)) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".git" {
			return filepath.SkipDir
		}
		visit(filepath.ToSlash(p), d)
		return nil
	}))
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	fset := token.NewFileSet()
	walk(t, func(p string, d fs.DirEntry) {
		if d.IsDir() || path.Ext(p) != ".go" {
			return
		}
		text, err := os.ReadFile(p)
		require.NoError(t, err)
		file, err := parser.ParseFile(fset, p, text, parser.ParseComments)
		require.NoError(t, err)
		all = append(all, source{
			path: p, dir: path.Dir(p), text: text, ast: file,
			test:  strings.HasSuffix(p, "_test.go"),
			lines: bytes.Count(text, []byte("\n")),
		})
	})
	return all
}

func TestTopLevelIsFixed(t *testing.T) {
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	for _, e := range entries {
		if path.Ext(e.Name()) == ".go" && !e.IsDir() {
			continue
		}
		require.Contains(t, topLevel, e.Name(), "it needs a room below the top level")
	}
}

func TestPackagesDoNotKnowOneAnother(t *testing.T) {
	for _, s := range sources(t) {
		for _, imported := range s.imports() {
			rel, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			rel = strings.TrimPrefix(rel, "/")
			from, to := room(s.path), room(rel)
			if from != "" && to != "" {
				require.Equal(t, from, to, "%s imports %s", s.path, imported)
			}
			if strings.HasPrefix(s.path, "internal/") {
				require.Empty(t, to, "%s imports %s: internal packages stand below the six", s.path, imported)
			}
			if !strings.HasPrefix(s.path, "examples/") {
				require.False(t, strings.HasPrefix(rel, "examples/"), "%s imports %s", s.path, imported)
			}
			if s.dir == "." && !s.test {
				t.Errorf("%s imports %s: the root package imports nothing of ours", s.path, imported)
			}
		}
	}
}

// Databases and TPM simulators are brought by whoever runs a program, so the
// library must not pull them in.
func TestHeavyImportsStayWhereTheyBelong(t *testing.T) {
	rules := []struct {
		prefix  string
		allowed func(s source) bool
	}{
		{"github.com/google/go-tpm-tools/simulator", func(s source) bool { return s.dir == "internal/tpmsim" }},
		{module + "/internal/tpmsim", func(s source) bool { return s.test || s.dir == "examples/quickstart" }},
		{module + "/internal/peer", func(s source) bool {
			return s.test || s.dir == "internal/tpmsim" || s.dir == "internal/ext4test"
		}},
		{module + "/internal/durable/durabletest", func(s source) bool { return s.test }},
		{module + "/internal/ext4test", func(s source) bool { return s.test }},
		{module + "/internal/swtpm", func(s source) bool {
			return s.test || s.dir == "internal/tpmsim" || s.dir == "internal/tpmdev"
		}},
		{"modernc.org/sqlite", func(s source) bool { return s.test || strings.HasPrefix(s.path, "examples/") }},
		{"github.com/jackc/pgx", func(s source) bool { return s.test }},
		{"github.com/rogpeppe/go-internal", func(s source) bool { return s.test }},
		{"github.com/stretchr/testify", func(s source) bool {
			// Conformance kits are called by tests of others.
			return s.test || strings.HasSuffix(s.dir, "test") || strings.HasSuffix(s.dir, "test/"+path.Base(s.dir))
		}},
		{"flag", func(s source) bool { return s.test || strings.HasPrefix(s.path, "examples/") }},
		{"unsafe", func(s source) bool {
			return strings.Contains(s.dir, "internal/") || strings.HasSuffix(s.path, "_linux.go")
		}},
		{"math/rand", func(s source) bool { return s.test || strings.HasSuffix(s.dir, "test") }},
	}
	for _, s := range sources(t) {
		for _, imported := range s.imports() {
			if imported == "C" {
				t.Errorf("%s uses cgo", s.path)
			}
			for _, rule := range rules {
				if imported == rule.prefix || strings.HasPrefix(imported, rule.prefix+"/") {
					require.True(t, rule.allowed(s), "%s imports %s", s.path, imported)
				}
			}
		}
	}
}

// Libraries have no state of their own, read no environment and do no work when
// they are loaded.
func TestLibrariesAreQuiet(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || strings.HasPrefix(s.path, "examples/") || s.dir == "internal/peer" || strings.HasSuffix(s.dir, "test") {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && n.Name.Name == "init" {
					t.Errorf("%s has an init function", s.path)
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "os" {
					switch n.Sel.Name {
					case "Getenv", "LookupEnv", "Environ", "Exit", "Args":
						t.Errorf("%s uses os.%s", s.path, n.Sel.Name)
					}
				}
			}
			return true
		})
	}
}

func TestPackageComments(t *testing.T) {
	docs := map[string][]string{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		if _, ok := docs[s.dir]; !ok {
			docs[s.dir] = nil
		}
		if s.ast.Doc != nil {
			docs[s.dir] = append(docs[s.dir], path.Base(s.path))
		}
		if path.Base(s.path) == "doc.go" {
			require.Empty(t, s.ast.Decls, "%s holds the package comment alone", s.path)
		}
	}
	for dir, files := range docs {
		require.Len(t, files, 1, "exactly one file of %s has the package comment", dir)
		public := room(dir) != "" && !strings.Contains(dir, "internal")
		if public {
			require.Equal(t, []string{"doc.go"}, files, "the package comment of %s", dir)
		}
		base := path.Base(dir)
		require.NotContains(t, []string{"util", "utils", "common", "types", "helpers"}, base, "%s", dir)
	}
}

func TestFilesStaySmallAndFinished(t *testing.T) {
	unfinished := regexp.MustCompile(`\b(TODO|FIXME|XXX)\b|not implemented`)
	for _, s := range sources(t) {
		if s.path == "repo_test.go" {
			continue
		}
		if !s.test {
			require.LessOrEqual(t, s.lines, maxLines, "%s is a place to look for two subjects in one room", s.path)
		}
		require.Empty(t, unfinished.FindString(string(s.text)), "%s is not finished", s.path)
	}
}

// What is committed speaks of the project, not of the machine that it was
// written on.
func TestNoTracesOfAMachine(t *testing.T) {
	traces := regexp.MustCompile(`/(work|farm|root)/|proxy\.golang\.org|deb\.debian\.org`)
	walk(t, func(p string, d fs.DirEntry) {
		if d.IsDir() || p == "repo_test.go" || strings.Contains(p, "/testdata/fuzz/") {
			return
		}
		text, err := os.ReadFile(p)
		require.NoError(t, err)
		require.Empty(t, string(traces.Find(text)), "%s", p)
	})
}

func TestDependenciesAreDecisions(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	decisions, err := os.ReadFile("CONTRIBUTING.md")
	require.NoError(t, err)
	direct := regexp.MustCompile(`(?m)^\s*(?:require )?([a-z0-9.-]+\.[a-z]+/\S+) v\S+$`)
	var found []string
	for _, m := range direct.FindAllStringSubmatch(string(mod), -1) {
		found = append(found, m[1])
		require.Contains(t, string(decisions), "`"+m[1]+"`", "CONTRIBUTING.md says under Decisions why %s, and what else was looked at", m[1])
	}
	require.NotEmpty(t, found)
}

// Every parser of outside input has a fuzz target; the packages that parse are
// named here so that a new one is added on purpose.
func TestFuzzTargets(t *testing.T) {
	count := map[string]int{}
	for _, s := range sources(t) {
		if !s.test {
			continue
		}
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Fuzz") {
				count[room(s.path)]++
				if strings.HasPrefix(s.path, "internal/") {
					count[s.dir]++
				}
			}
		}
	}
	for _, dir := range append(slices.Clone(packages), "internal/cms", "internal/tpmkey") {
		require.NotZero(t, count[dir], "%s has no fuzz target", dir)
	}
}
