# The functions of nixpkgs' `lib` that we use, with the same meaning, for minimal.nix.
let
  inherit (builtins)
    functionArgs
    isAttrs
    isFunction
    isList
    replaceStrings
    stringLength
    substring
    ;

  lower = [ "a" "b" "c" "d" "e" "f" "g" "h" "i" "j" "k" "l" "m" "n" "o" "p" "q" "r" "s" "t" "u" "v" "w" "x" "y" "z" ];
  upper = [ "A" "B" "C" "D" "E" "F" "G" "H" "I" "J" "K" "L" "M" "N" "O" "P" "Q" "R" "S" "T" "U" "V" "W" "X" "Y" "Z" ];

  self = {
    toLower = replaceStrings upper lower;

    hasSuffix =
      suffix: text:
      let
        rest = stringLength text - stringLength suffix;
      in
      rest >= 0 && substring rest (-1) text == suffix;

    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    removePrefix =
      prefix: text:
      if self.hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;

    toList = value: if isList value then value else [ value ];
    flatten = value: if isList value then builtins.concatMap self.flatten value else [ value ];
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    optionalAttrs = condition: attributes: if condition then attributes else { };
    optionalString = condition: text: if condition then text else "";
    filterAttrs =
      keep: attributes:
      builtins.listToAttrs (
        builtins.concatMap (
          name:
          let
            value = attributes.${name};
          in
          if keep name value then [ { inherit name value; } ] else [ ]
        ) (builtins.attrNames attributes)
      );
    genAttrs = names: function: builtins.listToAttrs (map (name: { inherit name; value = function name; }) names);
    mapAttrsToList = function: attributes: map (name: function name attributes.${name}) (builtins.attrNames attributes);

    concatStrings = builtins.concatStringsSep "";
    concatMapStrings = function: values: self.concatStrings (map function values);
    concatStringsSep = builtins.concatStringsSep;
    concatMapStringsSep = separator: function: values: builtins.concatStringsSep separator (map function values);
    splitString = separator: text: builtins.filter builtins.isString (builtins.split (self.escapeRegex separator) text);
    escapeRegex = replaceStrings (self.characters special) (map (each: "\\${each}") (self.characters special));
    characters = text: builtins.genList (place: substring place 1 text) (stringLength text);

    escapeShellArg = value: "'${replaceStrings [ "'" ] [ "'\\''" ] (toString value)}'";
    escapeShellArgs = values: self.concatMapStringsSep " " self.escapeShellArg values;

    isDerivation = value: value.type or null == "derivation";
    getExe = package: "${package.bin or package}/bin/${package.meta.mainProgram}";

    assertMsg = condition: message: condition || throw message;
    throwIf = condition: message: if condition then throw message else (value: value);
    throwIfNot = condition: self.throwIf (!condition);
    warnIf = condition: message: if condition then builtins.trace "warning: ${message}" else (value: value);
    warn = self.warnIf true;

    setFunctionArgs = function: arguments: {
      __functor = _self: function;
      __functionArgs = arguments;
    };
    functionArgs =
      function: if function ? __functor then function.__functionArgs else functionArgs function;

    # The result of `function`, with `.override` to call it again with other arguments; functions keep
    # the names of their arguments.
    makeOverridable =
      function:
      self.setFunctionArgs (
        arguments:
        let
          result = function arguments;
          change = new: arguments // (if isFunction new then new arguments else new);
          again = self.makeOverridable function;
          override = self.setFunctionArgs (new: again (change new)) (self.functionArgs function);
          more = {
            inherit override;
          }
          // self.optionalAttrs (result ? overrideAttrs) {
            overrideAttrs = new: (self.makeOverridable (given: (function given).overrideAttrs new)) arguments;
          };
        in
        if isAttrs result then
          result // more
        else if isFunction result then
          self.setFunctionArgs result (self.functionArgs result) // more
        else
          result
      ) (self.functionArgs function);
  };

  special = "\\[{()^$?*+|.";
in
self
