# The options of a recipe's script; to be sourced once the script's variables have their defaults and steps/ is known.
#
# --num-jobs N and --num-jobs=N set the variable num_jobs, which must have a value already; --help prints the comment at
# the head of the script. As Kaldi's utils/parse_options.sh, but that what is not an option is an error.
_script=$0
[ -f "$_script" ] || _script=$OLDPWD/$0 # a script that has gone to its own directory
_stop() { echo "$(basename "$0"): $1 (--help lists the options)" >&2; exit 1; }
while [ $# -gt 0 ]; do
  case $1 in
    --help | -h) sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$_script"; exit 0 ;;
    --?*=*) _option=${1%%=*} _value=${1#*=}; shift ;;
    --?*)
      [ $# -ge 2 ] || _stop "$1 needs a value"
      _option=$1 _value=$2; shift 2 ;;
    *) _stop "$1 is not an option" ;;
  esac
  _name=${_option#--}
  _name=${_name//-/_}
  [[ $_name =~ ^[a-z][a-z0-9_]*$ && -n ${!_name+set} ]] || _stop "unknown option $_option"
  printf -v "$_name" %s "$_value"
done
